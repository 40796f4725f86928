"""The pictures that the tools draw: a montage of images, a training's curves, PSNR after against before.

matplotlib is imported when a picture is drawn, and draws into memory (Agg), never on a screen.
"""
import io

import torch

from others.common.storage import write
from others.common.metrics import psnr

COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9')  # Okabe and Ito: safe for
GREY = '#666666'                                                              # the colour-blind
DPI = 100
MONTAGE_IMAGES, MONTAGE_SIDE = 6, 160           # the latter in pixels


def montage(path, versions: dict, scale: int, with_psnr: bool = True) -> None:
    """A PNG with a row for each image and a column for each version of it.

    versions: {title: (N, C, H, W), 0..255}. with_psnr: the last of them are the clean images; below the others stands
    their PSNR. Each pixel becomes scale x scale pixels, without interpolation.
    """
    from matplotlib.figure import Figure

    *_, clean = versions.values()
    N, C, H, W = clean.shape
    gap, header, caption = 12, 42, 24                                   # all in pixels
    width, height = W * scale + gap, H * scale + caption                # of a column, of a row
    total_width, total_height = gap + len(versions) * width, header + N * height + gap
    figure = Figure((total_width / DPI, total_height / DPI), dpi=DPI, facecolor='white')

    def put_text(x: float, y: float, text: str, **style) -> None:
        figure.text(x / total_width, 1 - y / total_height, text, ha='center', va='center', **style)

    for column, (title, images) in enumerate(versions.items()):
        left = gap + column * width
        most = W * scale // 9                                           # characters: of a path, the end tells more
        lines = [line if len(line) <= most else '…' + line[1 - most:] for line in title.split(', ')]
        put_text(left + W * scale / 2, header / 2, '\n'.join(lines), weight='bold', size=10)
        for row, (image, decibels) in enumerate(zip(images, psnr(images, clean).tolist())):
            below = header + row * height + H * scale
            pixels = image.float().round().byte().permute(1, 2, 0)              # (H, W, C)
            pixels = pixels.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
            figure.figimage(pixels.numpy(), left, total_height - below)
            if with_psnr and images is not clean:
                put_text(left + W * scale / 2, below + caption * 0.42, f'{decibels:.2f} dB', size=9, color=GREY)
    _save(figure, path)


def comparison(path, measured, denoised: dict) -> None:
    """A montage of some images of a `Validation`, of large ones a corner: noisy, {title: denoised}, clean."""
    noisy, target, estimated = measured
    some = (spread(noisy, target, MONTAGE_IMAGES), ..., slice(MONTAGE_SIDE), slice(MONTAGE_SIDE))
    versions = {'noisy': noisy, **denoised, 'other shot' if estimated else 'clean': target}
    montage(path, {title: version[some] for title, version in versions.items()},
            scale=max(1, MONTAGE_SIDE // noisy.shape[3]), with_psnr=not estimated)


def tiles(path, versions: list) -> None:
    """A PNG of nothing but images: a row for each, a column for each version, (N, 3, H, W), 0..255."""
    from PIL import Image

    columns = [torch.cat(list(images.float().round().byte()), 1) for images in versions]        # (3, N H, W)
    content = io.BytesIO()
    Image.fromarray(torch.cat(columns, 2).permute(1, 2, 0).numpy()).save(content, format='png')
    write(path, content.getvalue())


def spread(noisy: torch.Tensor, clean: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of `count` images (of all, if there are fewer) from the noisiest to the cleanest."""
    order = psnr(noisy, clean).argsort()
    return order[torch.linspace(0, len(order) - 1, min(count, len(order))).round().long()]


def training_curves(path, history: list, is_estimated: bool = False) -> None:
    """A PNG with validation PSNR and training loss over the epochs.

    history: for each epoch a dict with `epoch`, `loss` (None in epoch 0) and `val_psnr` (None without a validation
    set). is_estimated: the PSNR is, without clean images.
    """
    trained = [record for record in history if record['loss'] is not None]
    measured = [record for record in history if record['val_psnr'] is not None]
    figure, axes = _figure((6.4, 5.2 if measured else 3.0), rows=2 if measured else 1)
    if measured:
        best = max(measured, key=lambda record: record['val_psnr'])
        axes[0].plot([r['epoch'] for r in measured], [r['val_psnr'] for r in measured], 'o-', color=COLOURS[0], ms=4)
        axes[0].set_ylabel('estimated ' * is_estimated + 'validation PSNR (dB)')
        axes[0].set_title(f"best {best['val_psnr']:.2f} dB, epoch {best['epoch']}", size=10)
    axes[-1].plot([r['epoch'] for r in trained], [r['loss'] for r in trained], 'o-', color=COLOURS[1], ms=4)
    axes[-1].set_ylabel('training loss')
    axes[-1].set_xlabel('epoch')
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    _save(figure, path)


def psnr_in_out(path, noisy: torch.Tensor, clean: torch.Tensor, denoised: dict) -> None:
    """A PNG with each image's PSNR after denoising against that before, and their running median.

    denoised: {title: (N, C, H, W)}.
    """
    figure, (axes,) = _figure((6.4, 5.2))
    x, order = psnr(noisy, clean).sort()
    axes.plot(x[[0, -1]], x[[0, -1]], '--', color=GREY, linewidth=1, label='unchanged')
    for i, (title, images) in enumerate(denoised.items()):
        colour, y = COLOURS[i % len(COLOURS)], psnr(images, clean)[order]
        axes.plot(x, y, '.', color=colour, markersize=5, alpha=0.3, markeredgewidth=0)
        medians = [[part.median().item() for part in numbers.tensor_split(max(1, min(12, len(x) // 10)))]
                   for numbers in (x, y)]
        axes.plot(*medians, 'o-', color=colour, markersize=4, label=title)
    axes.set_xlabel('PSNR of the noisy image (dB)')
    axes.set_ylabel('PSNR of the denoised image (dB)')
    axes.legend(frameon=False)
    _save(figure, path)


def _figure(size: tuple, rows: int = 1) -> tuple:
    """A figure of `size` inches and its plots, one above the other, in the common look."""
    from matplotlib.figure import Figure

    figure = Figure(size, dpi=DPI, facecolor='white', layout='constrained')
    plots = figure.subplots(rows, sharex=True, squeeze=False)[:, 0]
    for axes in plots:
        axes.spines[['top', 'right']].set_visible(False)
        axes.grid(color='#dddddd', linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, plots


def _save(figure, path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format='png')
    write(path, content.getvalue())
