"""A training's steps on CUDA, recorded once and replayed.

Most of the time of a small network's step goes to launching its hundreds of kernels one by one. A CUDA graph launches
all of them at once: https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""
import torch


class Recorded:
    """`Model.differentiate` of either mini-project, as a graph for each shape of batch (an epoch's last may be
    smaller). What it returns is overwritten by the next call, but for the loss."""

    def __init__(self, differentiate) -> None:
        self.differentiate, self.graphs = differentiate, {}

    def __call__(self, noisy: torch.Tensor, target: torch.Tensor) -> tuple:
        key = noisy.shape
        if key not in self.graphs:
            self.graphs[key] = self.record(noisy.clone(), target.clone())
        inputs, graph, (loss, gradients) = self.graphs[key]
        for here, given in zip(inputs, (noisy, target)):
            here.copy_(given)
        graph.replay()
        return loss.clone(), gradients

    def record(self, noisy: torch.Tensor, target: torch.Tensor) -> tuple:
        """(inputs, graph, outputs)"""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):                 # what is set up at first use cannot be recorded
            self.differentiate(noisy, target)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            return (noisy, target), graph, self.differentiate(noisy, target)


def accelerate(model) -> None:
    """Let a `Model` that is on CUDA train by graphs, on the device and in the precision of its first step from then
    on; on the CPU it stays as it is."""
    if torch.device(model.device).type == 'cuda':
        model.differentiate = Recorded(model.differentiate)
