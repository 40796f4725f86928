"""Pictures of random shapes that lie one over the other, for a set of pairs without photographs."""
import math

import torch

# The numbers were chosen so that the mean and the spread of the noise, the contrast, the correlation of the colours
# and the power spectrum are near those of squares of photographs.
CANVAS = 512                            # pixels on a side
SMALLEST_LEAF = (5, 30)                 # pixels; the smallest radius in an image lies between
LARGEST_LEAF = 256
LAYERS = 2                              # leaves at an average point, one over the other
CONTRAST = (0.5, 1.5)                   # of an image: multiplies whatever differs inside it
SHADING, STRIPES, ROUGHNESS = 0.6, 0.8, 0.9
MEAN_COLOUR = (-0.05, -0.2, -0.55)      # red, green, blue; all colours are logits of 0..1
COLOUR_AXES = ((1., 1., 1.), (1., 0., -1.), (1., -2., 1.))  # brightness, yellow-blue, purple-green
SCENE_COLOURS = (0.8, 0.35, 0.1)        # standard deviation on these axes between images,
LEAF_COLOURS = (1.1, 0.4, 0.1)          # and between the leaves of one


def between(low: float, high: float, n: int, generator: torch.Generator) -> torch.Tensor:
    """n uniform draws, (n,)"""
    return low + (high - low) * torch.rand(n, generator=generator)


def dead_leaves(generator: torch.Generator) -> torch.Tensor:
    """A random picture of shapes that lie one over the other: uint8 (3, 512, 512).

    With radii r of density r^-3, such pictures have the statistics of natural images, alike at all scales (Lee,
    Mumford and Huang 2001, "Occlusion models for natural images", IJCV 41), and networks learn from them (Baradad et
    al. 2021, "Learning to see by looking at noise", https://arxiv.org/abs/2106.05963). Each leaf has a colour, a
    gradient of light and a rough texture, some have stripes.
    """
    # The leaves: as many as it takes to cover the canvas and a rim of an eighth LAYERS times.
    smallest = float(between(*map(math.log, SMALLEST_LEAF), 1, generator).exp())
    mean_square = 2 * math.log(LARGEST_LEAF / smallest) / (smallest ** -2 - LARGEST_LEAF ** -2)
    K = round(LAYERS * (1.25 * CANVAS) ** 2 / (math.pi * mean_square))
    radius = between(smallest ** -2, LARGEST_LEAF ** -2, K, generator) ** -0.5
    radius[0] = CANVAS                                          # the background
    x0, y0 = between(-0.125 * CANVAS, 1.125 * CANVAS, 2 * K, generator).view(2, K)
    leaf = topmost(x0, y0, radius, generator)                   # (512, 512), of 0..K - 1

    # Their surfaces, (512, 512) each.
    grid = torch.arange(CANVAS)
    x, y = grid - x0[leaf], grid[:, None] - y0[leaf]            # from the centre of the leaf

    def along(length: torch.Tensor) -> torch.Tensor:
        """The coordinate in a random direction in each leaf, times `length`, (K,)."""
        angle = between(0, 2 * math.pi, K, generator)
        return x * (length * angle.cos())[leaf] + y * (length * angle.sin())[leaf]

    shading = along(SHADING * torch.randn(K, generator=generator) / radius)
    period = between(math.log(5), math.log(64), K, generator).exp()
    striped = between(0, STRIPES, K, generator) * between(0, 1, K, generator).lt(0.25)
    stripes = striped[leaf] * along(2 * math.pi / period).sin()
    shift_x, shift_y = torch.randint(CANVAS, (2, K), generator=generator)
    texture = fractal_noise(generator)[(grid[:, None] + shift_y[leaf]) % CANVAS, (grid + shift_x[leaf]) % CANVAS]
    rough = ROUGHNESS * between(0, 1, K, generator).square()
    surface = shading + stripes + rough[leaf] * texture

    # Their colours. The sigmoid keeps bright and dark ones from being cut off.
    scene = torch.randn(3, generator=generator) * torch.tensor(SCENE_COLOURS)
    leaves = torch.randn(K, 3, generator=generator) * torch.tensor(LEAF_COLOURS)
    contrast = between(*CONTRAST, 1, generator)
    colours = torch.tensor(MEAN_COLOUR) + (scene + contrast * leaves) @ torch.tensor(COLOUR_AXES)
    logits = colours[leaf].permute(2, 0, 1) + contrast * surface
    return (255 * logits.sigmoid()).round().byte()


def topmost(x0: torch.Tensor, y0: torch.Tensor, radius: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Which leaf lies on top at each pixel: int64 (512, 512). Leaf 0 is wherever no other one is.

    x0, y0, radius: (K,). A leaf is |u|^p + |v|^p < 1, u and v the coordinates along its two axes in units of the
    half-axes: a rhombus (p = 1), an ellipse (2) or nearly a rectangle (8).
    """
    K = len(radius)
    stretch = between(0, 0.6, K, generator).exp()
    a, b = radius * stretch, radius / stretch
    angle = between(0, math.pi, K, generator)
    cos, sin = angle.cos(), angle.sin()
    p = torch.tensor([1., 2., 2., 8.])[torch.randint(4, (K,), generator=generator)]
    reach = 1.3 * a                                             # the corner of a square, p = 8
    boxes = torch.stack([x0 - reach, x0 + reach, y0 - reach, y0 + reach], 1).clamp(0, CANVAS)
    shapes = torch.stack([x0, y0, cos / a, sin / a, -sin / b, cos / b, p], 1)
    top = torch.zeros(CANVAS, CANVAS, dtype=torch.int64)
    grid = torch.arange(CANVAS)
    for k, (box, shape) in enumerate(zip(boxes.int().tolist(), shapes.tolist())):
        (x1, x2, y1, y2), (cx, cy, ux, uy, vx, vy, power) = box, shape
        x, y = grid[x1:x2] - cx, grid[y1:y2, None] - cy
        inside = (ux * x + uy * y).abs() ** power + (vx * x + vy * y).abs() ** power < 1
        top[y1:y2, x1:x2].masked_fill_(inside, k)
    return top


def fractal_noise(generator: torch.Generator) -> torch.Tensor:
    """Periodic Gaussian noise, amplitude spectrum f^-1.5, mean square 1: (512, 512)."""
    fy, fx = torch.fft.fftfreq(CANVAS)[:, None], torch.fft.rfftfreq(CANVAS)
    amplitude = (fx ** 2 + fy ** 2).sqrt().clamp(min=4 / CANVAS) ** -1.5
    white = torch.randn(CANVAS, CANVAS, generator=generator)
    noise = torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, s=white.shape)
    # Row by row: the rounding of a single sum would depend on the number of threads.
    return noise / noise.square().mean(1).mean().sqrt()
