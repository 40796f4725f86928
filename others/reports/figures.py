"""The figures of the reports, drawn by matplotlib as SVG: each function returns the bytes of one.

The same numbers give the same bytes. Text stays text, in the font of the report.
"""
import io
import logging
import math

import torch

from others import data
from others.plots import COLOURS, GREY

BLUE, RED, GREEN, PINK, YELLOW, SKY = COLOURS
COLUMN, PAGE = 3.44, 7.09           # inches: the width of a column, of the page without its margins
MEASURED, SHOWN = 'STIXGeneral', 'Libertinus Serif'     # matplotlib has only the first, Typst the second
STYLE = {
    'svg.hashsalt': 'reports', 'svg.fonttype': 'none', 'font.family': MEASURED, 'font.size': 8,
    'axes.spines.top': False, 'axes.spines.right': False, 'axes.linewidth': 0.6, 'axes.axisbelow': True,
    'xtick.major.width': 0.6, 'ytick.major.width': 0.6, 'xtick.major.size': 2.5, 'ytick.major.size': 2.5,
    'grid.color': '#dddddd', 'grid.linewidth': 0.5, 'lines.linewidth': 1.2, 'lines.markersize': 4,
    'legend.frameon': False, 'legend.fontsize': 8, 'axes.titlesize': 8, 'axes.titlepad': 4,
}


def drawn(draw) -> 'function':
    """A function that makes a figure -> one that returns it as SVG, in the common style."""
    def svg(*arguments) -> bytes:
        import matplotlib

        logging.getLogger('matplotlib.font_manager').setLevel(logging.ERROR)
        with matplotlib.rc_context(STYLE):
            content = io.BytesIO()
            draw(*arguments).savefig(content, format='svg', metadata={'Date': None, 'Creator': None})
        return content.getvalue().replace(MEASURED.encode(), SHOWN.encode())

    svg.__doc__ = draw.__doc__
    return svg


def new_figure(width: float, height: float, **options):
    from matplotlib.figure import Figure

    return Figure((width, height), layout='constrained', **options)


def show(axes, image: torch.Tensor, title: str = '') -> None:
    """uint8 (3, H, W), without interpolation or ticks."""
    axes.imshow(image.permute(1, 2, 0).numpy(), interpolation='none')
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title)
    for spine in axes.spines.values():
        spine.set_visible(False)


# ------------------------------------------------------------------------------------------ the noise

@drawn
def noise(photo: torch.Tensor, lags: list, contrast: list):
    """A square of a photograph, some of its blocks with the two draws, the three images; what a record says of them.

    photo: uint8 (3, 32 b, 32 b). lags: the residual's correlation with its neighbours, rows of a square, the
    middle one with itself. contrast: (local contrast of the clean image, standard deviation of the noise) by groups.
    """
    from matplotlib.patches import Circle, Rectangle

    b = photo.shape[-1] // data.SIZE
    generator = torch.Generator().manual_seed(0)
    choices = []

    first, second, clean = data.point_sample(photo, generator)
    figure = new_figure(PAGE, 1.38)
    axes = figure.subplots(1, 7, width_ratios=(1, 1, 1, 1, 1, 0.95, 1.15))
    row, column, count = 10, 13, 4                          # of the blocks that are enlarged
    show(axes[0], photo, f'photograph, {photo.shape[-1]} × {photo.shape[-1]}')
    axes[0].add_patch(Rectangle((column * b - 0.5, row * b - 0.5), count * b, count * b, fill=False, ec='white', lw=1.4))
    axes[0].add_patch(Rectangle((column * b - 0.5, row * b - 0.5), count * b, count * b, fill=False, ec='black', lw=0.6))

    part = photo[:, row * b:(row + count) * b, column * b:(column + count) * b]
    show(axes[1], part, f'{count} × {count} blocks, two draws')
    for i in range(count):
        for j in range(count):
            block = part[:, i * b:(i + 1) * b, j * b:(j + 1) * b].flatten(1)
            for image, kind in ((first, Rectangle), (second, Circle)):
                value = image[:, row + i, column + j, None]
                k = int((block == value).all(0).nonzero()[0])           # a place with the colour that was drawn
                y, x = i * b + k // b, j * b + k % b
                shape = dict(xy=(x - 0.5, y - 0.5), width=1, height=1) if kind is Rectangle else dict(
                    xy=(x, y), radius=0.55)
                for colour, width in (('black', 1.6), ('white', 0.7)):
                    axes[1].add_patch(kind(**shape, fill=False, ec=colour, lw=width))
    for k in range(1, count):
        axes[1].axhline(k * b - 0.5, color='white', lw=0.6)
        axes[1].axvline(k * b - 0.5, color='white', lw=0.6)
    for axis, image, title in zip(axes[2:5], (first, second, clean), ('version 1 (squares)', 'version 2 (circles)',
                                                                       'mean of each block')):
        show(axis, image, title)

    lags = torch.tensor(lags)
    middle = len(lags) // 2
    axes[5].imshow(lags.clone().fill_diagonal_(lags.max()) * 0 + lags, cmap='RdBu_r', vmin=-1, vmax=1)
    for i, line in enumerate(lags.tolist()):
        for j, value in enumerate(line):
            text = '1' if i == j == middle else f'{value:+.2f}'.replace('-', '−').replace('0.', '.')
            axes[5].text(j, i, text, ha='center', va='center', size=5.5, color='white' if text == '1' else 'black')
    axes[5].set_xticks(range(len(lags)), [f'{k - middle}' .replace('-', '−') for k in range(len(lags))], size=6.5)
    axes[5].set_yticks(range(len(lags)), [f'{k - middle}' .replace('-', '−') for k in range(len(lags))], size=6.5)
    axes[5].tick_params(length=0)
    axes[5].set_title('correlation of the noise')
    x, y = zip(*contrast)
    axes[6].plot(x, y, 'o-', color=BLUE)
    axes[6].set_title('noise grows with contrast')
    axes[6].set_xlabel('contrast of neighbours', labelpad=1)
    axes[6].set_ylabel('noise (rms)', labelpad=1)
    axes[6].set_xlim(0)
    axes[6].set_ylim(0)
    axes[6].grid()
    return figure
