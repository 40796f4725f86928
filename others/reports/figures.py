"""The figures of the reports, drawn by matplotlib as SVG: each function returns the bytes of one.

The same numbers give the same bytes. Text stays text, in the font of the report.
"""
import functools
import io
import itertools
import logging
from statistics import mean
from typing import Callable, Optional

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle
from skimage import data as photographs

from others import data
from others.common.plots import COLOURS, GREY

BLUE, RED, GREEN, PINK, YELLOW, SKY = COLOURS
COLUMN, PAGE = 3.38, 7.0            # inches: the width of a column, and of the page without its margins
GAP = 0.03                          # inches between images that belong together
LENGTHS = {'K': 0.36, 'M': 0.22, 'P': 0.46}     # inches, of a drawn matrix
MEASURED, SHOWN = 'STIXGeneral', 'Libertinus Serif'     # matplotlib has only the first, Typst the second
STYLE = {
    'svg.hashsalt': 'reports', 'svg.fonttype': 'none', 'font.family': [MEASURED, 'DejaVu Sans'], 'font.size': 8,
    'axes.spines.top': False, 'axes.spines.right': False, 'axes.linewidth': 0.6, 'axes.axisbelow': True,
    'axes.labelpad': 2, 'axes.labelsize': 7.5, 'axes.titlesize': 8, 'axes.titlepad': 3,
    'xtick.labelsize': 7, 'ytick.labelsize': 7,
    'xtick.major.width': 0.6, 'ytick.major.width': 0.6, 'xtick.major.size': 2.5, 'ytick.major.size': 2.5,
    'grid.color': '#dddddd', 'grid.linewidth': 0.5, 'lines.linewidth': 1.1, 'lines.markersize': 4,
    'legend.frameon': False, 'legend.fontsize': 7.5, 'legend.handlelength': 1.4, 'legend.borderaxespad': 0.2,
}
MINUS = str.maketrans('-', '−')


def drawn(draw: Callable) -> Callable:
    """A function that makes a matplotlib figure -> one that returns it as SVG, in the common style."""
    @functools.wraps(draw)
    def svg(*arguments) -> bytes:
        logging.getLogger('matplotlib.font_manager').setLevel(logging.ERROR)
        with matplotlib.rc_context(STYLE):
            content = io.BytesIO()
            draw(*arguments).savefig(content, format='svg', metadata={'Date': None, 'Creator': None})
        return content.getvalue().replace(MEASURED.encode(), SHOWN.encode())

    return svg


def in_symbols(noise: str) -> str:
    """The name of a noise as it is printed."""
    return noise.replace(' x ', ' × ').replace('sigma', 'σ')


def place(figure: Figure, left: float, bottom: float, width: float, height: float):
    """Axes at a place in inches, of an empty drawing."""
    W, H = figure.get_size_inches()
    return figure.add_axes((left / W, bottom / H, width / W, height / H))


def write(axes, x: float, y: float, text: str, size: float = 7, colour: str = 'black', ha: str = 'center',
          va: str = 'center', **style) -> None:
    axes.text(x, y, text, size=size, color=colour, ha=ha, va=va, **style)


# ------------------------------------------------------------------------------------- photographs

def show(axes, image: torch.Tensor, title: str = '') -> None:
    """uint8 (3, H, W), without interpolation or ticks."""
    axes.imshow(image.permute(1, 2, 0).numpy(), interpolation='none')
    axes.set_title(title)
    axes.axis('off')


def outline(axes, kind: type, xy: tuple, colours: tuple, widths: tuple, **size) -> None:
    """A shape drawn twice, the narrower line above the wider one."""
    for colour, width in zip(colours, widths):
        axes.add_patch(kind(xy, **size, fill=False, ec=colour, lw=width))


@drawn
def noise(row: dict):
    """A square of a photograph, some of its blocks with two draws each, the images that result; what a row of the
    record of others.studies.residual says."""
    photo = torch.tensor(photographs.astronaut()).permute(2, 0, 1)[:, :224, 110:334]
    b = photo.shape[-1] // data.SIZE
    first, second, clean = data.point_sample(photo, torch.Generator().manual_seed(0))
    side, gap, bottom = 0.95, 0.05, 0.31
    figure = Figure((PAGE, 1.45))
    top, left, count = 10, 13, 4                            # of the blocks that are enlarged
    part = photo[:, top * b:(top + count) * b, left * b:(left + count) * b]
    images = {f'photograph ({photo.shape[-1]}²)': photo, f'{count}² of its {data.SIZE}² blocks': part,
              'version 1 (□)': first, 'version 2 (○)': second, 'block means': clean}
    whole, enlarged, *_ = tiles = [place(figure, i * (side + gap), bottom, side, side) for i in range(len(images))]
    for axes, (title, image) in zip(tiles, images.items()):
        show(axes, image, title)
    outline(whole, Rectangle, (left * b - 0.5, top * b - 0.5), ('white', 'black'), (1.6, 0.7), width=count * b,
            height=count * b)
    for k in range(1, count):
        enlarged.axhline(k * b - 0.5, color='white', lw=0.8)
        enlarged.axvline(k * b - 0.5, color='white', lw=0.8)
    for i, j in itertools.product(range(count), repeat=2):
        block = part[:, i * b:(i + 1) * b, j * b:(j + 1) * b]                           # (3, b, b)
        for image, kind, shift, size in ((first, Rectangle, 0.5, {'width': 1, 'height': 1}),
                                         (second, Circle, 0, {'radius': 0.6})):
            y, x = (block == image[:, top + i, left + j, None, None]).all(0).nonzero()[0].tolist()
            outline(enlarged, kind, (j * b + x - shift, i * b + y - shift), ('black', 'white'), (1.7, 0.8), **size)

    middle = len(row['neighbours']) // 2
    around = torch.tensor(row['neighbours'])[middle - 1:middle + 2, middle - 1:middle + 2]
    axes = place(figure, 5 * (side + gap) + 0.12, bottom + 0.1, 0.75, 0.75)
    axes.imshow(around.abs().numpy(), cmap='Greys', vmin=0, vmax=1.4)
    for i, j in itertools.product(range(3), repeat=2):
        text = '1' if i == j == 1 else f'{round(around[i, j].item(), 3) + 0:+.3f}'.replace('0.', '.').translate(MINUS)
        write(axes, j, i, text, 6.5, 'white' if text == '1' else 'black')
    signs = ['−1', '0', '1']
    axes.set(xticks=range(3), xticklabels=signs, yticks=range(3), yticklabels=signs, title='  correlation')
    axes.tick_params(length=0, pad=1)
    axes.set_xlabel('offset (pixels)', labelpad=1)

    axes = place(figure, PAGE - 0.78, bottom, 0.7, side)
    axes.plot(*zip(*row['by_contrast']), 'o-', color=BLUE, markersize=3)
    axes.set(xlim=0, ylim=0, title='strength', xticks=(0, 20, 40))
    axes.set_xlabel('contrast', labelpad=1)
    axes.set_ylabel('noise, rms', labelpad=1)
    axes.tick_params(pad=1)
    axes.grid()
    return figure


@drawn
def pictures(groups: list, titles: list, corner: Optional[tuple] = None):
    """Images, each in its versions, one beside the other. groups: for each image a list of pairs (uint8 (3, H, W), the
    line below it). corner: top and left of a part of the only one, H / 3 wide, which is shown enlarged beside it."""
    if corner:
        y, x = corner
        width = groups[0][0][0].shape[-1] // 3
        groups = [groups[0], [(image[:, y:y + width, x:x + width], '') for image, _ in groups[0]]]
    count, middle, below, above = len(titles), 0.1, 0.19 if corner else 0.16, 0.16
    side = (PAGE - (len(groups) - 1) * middle - len(groups) * (count - 1) * GAP) / (len(groups) * count)
    figure = Figure((PAGE, above + side + below))
    for i, group in enumerate(groups):
        for k, ((image, line), title) in enumerate(zip(group, titles)):
            left = i * (count * (side + GAP) - GAP + middle) + k * (side + GAP)
            tile = place(figure, left, below, side, side)
            show(tile, image, title)
            write(tile, 0.5, -0.03 / side, line, 7.5, va='top', transform=tile.transAxes)
            if corner and i == 0:
                outline(tile, Rectangle, (x - 0.5, y - 0.5), ('white',), (0.8,), width=width, height=width)
    return figure


# ----------------------------------------------------------------------------------- the networks

def canvas(width: float, height: float) -> tuple:
    """A figure and axes whose unit is the inch."""
    figure = Figure((width, height))
    axes = place(figure, 0, 0, width, height)
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis('off')
    return figure, axes


def box(axes, x: float, y: float, width: float, height: float, text: str, colour: str, size: float = 7) -> None:
    """A rounded box around (x, y), with text."""
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, ec=colour, fc=colour + '22', lw=0.8,
                                  boxstyle='round,pad=0,rounding_size=0.03'))
    write(axes, x, y, text, size, linespacing=1.05)


def arrow(axes, start: tuple, end: tuple, colour: str = 'black') -> None:
    axes.annotate('', end, start, arrowprops={'arrowstyle': '-|>,head_width=0.12,head_length=0.22', 'color': colour,
                                              'lw': 0.8, 'shrinkA': 0, 'shrinkB': 0})


def path(axes, points: list, colour: str = 'black') -> None:
    """A line of straight pieces through the points, with a head at its end."""
    axes.plot(*zip(*points), color=colour, lw=0.9, solid_joinstyle='round', zorder=1)
    arrow(axes, points[-2], points[-1], colour)


@drawn
def network_1(widths: list, blocks: list):
    """Project 1's network: a level of the encoder and of the decoder for each resolution; the channels and, but for
    the bottom, the blocks of each."""
    figure, axes = canvas(COLUMN, 1.94)
    top, step, shift, high, wide, half = 1.64, 0.44, 0.12, 0.22, 0.4, COLUMN / 2    # shift: each level is narrower
    for k, width in enumerate(widths):
        y, x = top - k * step, 0.9 + shift * k          # of the encoder's block; the decoder's mirrors it
        size = f'{width}×H×W' if k == 0 else f'{width}×H/{2 ** k}×W/{2 ** k}'
        if k == len(widths) - 1:
            box(axes, half, y, wide, high, 'block', BLUE)
            write(axes, half, y - high / 2 - 0.02, size, 7, GREY, va='top')
            break
        last, below, left = k == len(widths) - 2, y - step, x - 0.15
        add = COLUMN - x - wide / 2 - 0.12                      # where the skip connection is added
        box(axes, x, y, wide, high, f'{blocks[k]} blocks', BLUE)
        box(axes, COLUMN - x, y, wide, high, f'{blocks[k]} blocks', BLUE)
        path(axes, [(x + wide / 2, y), (add - 0.05, y)], GREY)
        write(axes, add, y, '⊕', 11)
        write(axes, half - 0.06, y + 0.015, size, 7, GREY, va='bottom')
        path(axes, [(left, y - high / 2), (left, below), ((half if last else x + shift) - wide / 2, below)], RED)
        corner = [(half + wide / 2, below), (add, below)] if last else [(add, below + high / 2)]
        path(axes, [*corner, (add, y - 0.06)], GREEN)
        if k == 0:
            write(axes, x - 0.19, y - step / 2, 'conv 2×2, stride 2', 7, RED, ha='right')
            write(axes, COLUMN - x + 0.02, y - step / 2, 'transposed\n2×2, stride 2', 7, GREEN, ha='left',
                  linespacing=0.95)
    write(axes, 0.06, top, 'x', 9, style='italic')
    write(axes, COLUMN - 0.06, top, '⊕', 11)
    for x in (0.38, COLUMN - 0.38):
        box(axes, x, top, 0.38, high, 'conv\n3×3', GREY, 6)
    for start, end in ((0.1, 0.19), (0.57, 0.69), (COLUMN - 0.69, COLUMN - 0.57), (COLUMN - 0.19, COLUMN - 0.1)):
        path(axes, [(start, top), (end, top)])
    over = top + 0.27
    path(axes, [(0.06, top + 0.07), (0.06, over), (COLUMN - 0.06, over), (COLUMN - 0.06, top + 0.06)])
    write(axes, half, top + 0.25, 'the input is added: the network computes a correction', va='top')
    return figure


@drawn
def network_2(channels: list):
    """The assignment's network: the channels and the size after each of its four layers."""
    figure, axes = canvas(COLUMN, 0.62)
    a, b = channels
    shapes = ['3 × H × W', f'{a} × H/2 × W/2', f'{b} × H/4 × W/4', f'{a} × H/2 × W/2', '3 × H × W']
    layers = [('conv 4×4\nReLU', RED), ('conv 4×4\nReLU', RED), ('transposed\n4×4, ReLU', GREEN),
              ('transposed\n4×4, sigmoid', GREEN)]
    step, wide, y = (COLUMN - 0.1) / 4, 0.56, 0.42
    for k, (text, colour) in enumerate(layers):
        x = 0.05 + step * (k + 0.5)
        box(axes, x, y, wide, 0.3, text, colour, 6.5)
        path(axes, [(x - step / 2 - (0.05 if k == 0 else 0.135), y), (x - wide / 2, y)])
    path(axes, [(x + wide / 2, y), (COLUMN, y)])
    for k, shape in enumerate(shapes):
        write(axes, min(max(0.05 + step * k, 0.24), COLUMN - 0.24), 0.16, shape, 6.5, GREY)
    return figure


# ---------------------------------------------------------------------------------- rows with dots

def rows_of(names: list, left: float, step: float, label: str, ys=None, top: float = 0.18) -> tuple:
    """A figure and axes with a name at the left of each row, at the heights `ys`, downwards from 0."""
    ys = range(len(names)) if ys is None else ys
    low, high = -0.5, ys[-1] + 0.5
    figure = Figure((COLUMN, 0.33 + step * (high - low) + top))
    axes = place(figure, left, 0.33, COLUMN - left - 0.06, step * (high - low))
    axes.set_yticks(ys, names)
    axes.set_ylim(high, low)
    axes.tick_params(axis='y', length=0)
    axes.set_xlabel(label)
    axes.grid(axis='x')
    return figure, axes


def dots(axes, xs: list, ys, marker: str, colour: str, size: float = 3.5, hollow: bool = False, **style) -> None:
    """A mark in each row; '|' is a bar."""
    bar = marker == '|'
    axes.plot(xs, ys, marker, color=colour, mfc='none' if hollow else colour, markersize=7 if bar else size,
              mew=1.2 if bar else 0.7 * hollow, **style)


@drawn
def variants(found: dict, groups: dict, key: str = 'centre', relative: bool = False):
    """Trainings of equal length, a line each. found: {name in the record: its rows}; groups: {title: {name in the
    record: name}}, the first of a group is what the others differ from by one thing. key: the set of images;
    relative: show the difference to the first's mean."""
    starts = list(itertools.accumulate((1.4 + len(names) for names in groups.values()), initial=0))    # the titles
    ys = [start + 1 + k for start, names in zip(starts, groups.values()) for k in range(len(names))]
    figure, axes = rows_of([name for names in groups.values() for name in names.values()], 1.72, 0.112,
                           'difference of PSNR (dB)' if relative else 'PSNR on centre squares (dB)', ys, 0.06)
    axes.spines['left'].set_visible(False)
    for start, (title, names) in zip(starts, groups.items()):
        axes.annotate(title, (0, start), (-1.7 * 72, 0), axes.get_yaxis_transform(), 'offset points', va='center',
                      size=7.5, weight='bold')
        zero = relative * mean(row['psnr'][key] for row in found[next(iter(names))])
        for k, name in enumerate(names):
            y, values = start + 1 + k, [row['psnr'][key] - zero for row in found[name]]
            if k == 0:
                axes.plot([mean(values)] * 2, [y - 0.5, y + len(names) - 0.5], color=GREY, lw=0.7, zorder=1)
            dots(axes, values, [y] * len(values), 'o', BLUE if k else GREY, 3, alpha=0.55)
            dots(axes, [mean(values)], [y], '|', BLUE if k else 'black')
    return figure


@drawn
def noises(rows: list):
    """Gain over the noisy input, of the best blur and both projects, for each kind of noise; hollow: weights that
    were trained on the course's noise alone."""
    figure, axes = rows_of([in_symbols(row['noise']) for row in rows], 1.06, 0.114, 'gain over the noisy input (dB)',
                           top=0.21)
    axes.axvline(0, color='black', lw=0.7)
    for name, marker, colour in (('project 2, given', 's', RED), ('project 1, given', 'o', BLUE),
                                 ('best blur', '|', 'black'), ('project 2', 's', RED), ('project 1', 'o', BLUE)):
        hollow = name.endswith(', given')
        dots(axes, [row[name] - row['noisy input'] for row in rows], range(len(rows)), marker, colour, hollow=hollow,
             label=None if hollow else name)
    axes.legend(loc='lower center', bbox_to_anchor=(0.4, 1), ncols=3, columnspacing=1, handletextpad=0.3)
    return figure


@drawn
def estimate(rows: list):
    """The estimated PSNR of several denoisers, with two standard errors, against the true one."""
    figure, axes = curve_axes(1.12, 0.04, 'true PSNR (dB)', 'estimated (dB)')
    ends = [min(row['pooled'] for row in rows) - 0.3, max(row['pooled'] for row in rows) + 0.3]
    axes.plot(ends, ends, color='black', lw=0.7)
    for name, marker, colour in (('blur', 'd', GREY), ('project 2', 's', RED), ('project 1', 'o', BLUE)):
        some = [row for row in rows if row['model'].startswith(name)]
        axes.errorbar([row['pooled'] for row in some], [row['estimated'] for row in some],
                      [2 * row['estimated_error'] for row in some], fmt=marker, color=colour, markersize=3, lw=0.9,
                      label=name)
    axes.legend(loc='lower right')
    return figure


@drawn
def exactness(rows: list):
    """The largest error of a result, over random configurations: from the 5 % quantile to the largest, the median
    marked; ours and torch.nn's."""
    names = [row['quantity'].replace('gradient of the ', 'd ').replace('output', f"{row['block']}: output")
             for row in rows]
    figure, axes = rows_of(names, 1.5, 0.13, 'largest error / largest value')
    axes.set_xscale('log')
    for name, colour, shift in (('torch.nn', GREY, 0.17), ('ours', BLUE, -0.17)):
        ys = [y + shift for y in range(len(rows))]
        axes.hlines(ys, *zip(*((row[name][1], row[name][-1]) for row in rows)), color=colour, lw=1.5, label=name)
        dots(axes, [row[name][3] for row in rows], ys, 'o', colour, 3)
    axes.legend(loc='lower center', bbox_to_anchor=(0.4, 1), ncols=2, columnspacing=1)
    return figure


@drawn
def speed(rows: list):
    """Times relative to torch.nn's better format, with the quartiles of the times in float32. rows: of the record of
    bench_framework."""
    figure, axes = rows_of([f"{row['network']}, {row['task']}" for row in rows], 0.92, 0.135,
                           "relative to torch.nn's better format (autocast)")
    axes.axvline(1, color='black', lw=0.7)
    ys = range(len(rows))
    axes.hlines(ys, *zip(*((row['ratio_low'], row['ratio_high']) for row in rows)), color=BLUE, lw=1.1)
    for name, label in (('torch.nn', 'torch.nn, both formats'), ('channels-last', None)):
        ratios = [row[name] / min(row['torch.nn'], row['channels-last']) for row in rows]
        dots(axes, ratios, ys, '|', GREY, label=label)
    dots(axes, [row['ratio'] for row in rows], ys, 'o', BLUE, 4, label='ours, float32')
    dots(axes, [row['ours mixed'] / row['autocast'] for row in rows], ys, 's', RED, 4,
         label='ours / autocast, bfloat16')
    axes.legend(loc='lower center', bbox_to_anchor=(0.35, 1), ncols=3, columnspacing=0.8, handletextpad=0.1)
    return figure


# ------------------------------------------------------------------------------------------ curves

def curve_axes(height: float, above: float, label: str, psnr: str = 'PSNR on val_data (dB)') -> tuple:
    """A figure and axes, with so many inches above them."""
    figure = Figure((COLUMN, height))
    axes = place(figure, 0.42, 0.34, COLUMN - 0.48, height - 0.34 - above)
    axes.set_xlabel(label)
    axes.set_ylabel(psnr)
    axes.grid()
    return figure, axes


@drawn
def saturation(curves: list):
    """PSNR against the pairs seen, on a logarithmic axis. curves: (name, [(pairs, dB)]), of one training each."""
    figure, axes = curve_axes(1.5, 0.1, 'pairs seen')
    for (name, line), colour in zip(curves, (BLUE, RED, GREEN)):
        axes.plot(*zip(*line), color=colour, label=name)
    axes.set_xscale('log')
    axes.legend(loc='lower right')
    return figure


@drawn
def epochs(curves: dict):
    """PSNR by epoch of several seeds, a line each, and their mean; the second system's dashed. curves: {name: [[dB],
    one list for each seed]}."""
    figure, axes = curve_axes(1.62, 0.18, 'epoch')
    for (name, seeds), colour, style in zip(curves.items(), (BLUE, RED), ('-', '--')):
        xs = range(1, len(seeds[0]) + 1)
        axes.plot(xs, list(zip(*seeds)), style, color=colour, lw=0.6, alpha=0.6)
        axes.plot(xs, list(map(mean, zip(*seeds))), 'o' + style, color=colour, lw=1.5, label=name)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc='lower right')
    return figure


@drawn
def sweeps(panels: list):
    """Lines side by side, two in a row. panels: (title, label of the horizontal axis, {name: [(x, dB)]}); what is
    'reported' is black and hollow."""
    rows = -(-len(panels) // 2)
    figure = Figure((COLUMN, 1.3 * rows))
    for k, (title, label, lines) in enumerate(panels):
        axes = place(figure, 0.4 + (COLUMN / 2) * (k % 2), 1.3 * (rows - 1 - k // 2) + 0.34, COLUMN / 2 - 0.45, 0.76)
        for (name, points), colour, style in zip(lines.items(), (BLUE, RED, GREEN, PINK), ('-', '--', '-.', ':')):
            reported = name == 'reported'
            axes.plot(*zip(*points), 'o' + style, color='black' if reported else colour, label=name, lw=0.9,
                      markersize=2.5, mfc='white' if reported else colour)
        axes.set_title(title, size=7.5)
        xs = sorted({x for points in lines.values() for x, _ in points})
        axes.set_xticks(xs if len(xs) <= 5 else range(0, xs[-1] + 1, 100 if xs[-1] > 50 else 10 if xs[-1] > 15 else 5))
        axes.set_xlabel(label, size=7)
        axes.tick_params(labelsize=6.5)
        axes.grid()
        if len(lines) > 1:
            axes.margins(y=0.05 if len(lines) < 3 else 0.4)         # a row below the lines
            axes.legend(fontsize=6, handlelength=1.6, labelspacing=0.2, columnspacing=0.6, handletextpad=0.3,
                        **({} if len(lines) < 3 else {'loc': 'lower center', 'ncols': len(lines)}))
    return figure


# ----------------------------------------------------------------------------------- the framework

def cell(axes, x: float, y: float, width: float, height: float, colour: str, *fills: str) -> None:
    """A tinted rectangle, its left lower corner at (x, y), above others with these fills."""
    for fill in (*fills, colour + '22'):
        axes.add_patch(Rectangle((x, y), width, height, ec=colour, fc=fill, lw=0.8))


def matrix(axes, x: float, y: float, name: str, colour: str, rows: str, columns: str) -> float:
    """A stack of matrices around the height y, its left side at x, its name inside, its size at two sides. -> its
    right side."""
    width, height = LENGTHS[columns], LENGTHS[rows]
    x += 0.13                                       # room for the number of rows
    for shift in (0.04, 0):
        cell(axes, x + shift, y - height / 2 + shift, width, height, colour, 'white')
    write(axes, x + width / 2, y, name, 8)
    write(axes, x - 0.02, y, rows, 6.5, GREY, ha='right')
    write(axes, x + width / 2, y + height / 2 + 0.05, columns, 6.5, GREY, va='bottom')
    return x + width + 0.04


def tensor(axes, x: float, y: float, name: str, colour: str, shape: str) -> float:
    """Planes one behind the other around the height y, the left side at x: a tensor and its shape. -> its right
    side."""
    side, shift = 0.28, 0.04
    for k in (2, 1, 0):
        cell(axes, x + shift * k, y - side / 2 + shift * (k - 1), side, side, colour, 'white')
    write(axes, x + side / 2, y - shift, name, 8)
    write(axes, x + side / 2 + shift, y - side / 2 - shift - 0.02, shape, 6.5, GREY, va='top')
    return x + side + 2 * shift


@drawn
def convolution():
    """The three maps of a convolution as products of matrices, with shapes."""
    figure, axes = canvas(PAGE, 0.97)
    y = 0.4

    def dot(x: float) -> float:
        write(axes, x + 0.06, y, '·', 11)
        return x + 0.08

    def move(x: float, name: str) -> float:
        """An arrow from right to left, with the name of a map."""
        arrow(axes, (x + 0.3, y), (x + 0.05, y))
        write(axes, x + 0.19, y + 0.03, name, 7.5, va='bottom')
        return x + 0.3

    for x, title in ((0, 'output'), (2.8, 'gradient of the weight'), (5.06, 'gradient of the input')):
        write(axes, x, 0.96, title, 8, ha='left', va='top', weight='bold')
    x = move(tensor(axes, 0.12, y, 'y', GREEN, 'M×Ho×Wo×N'), 'A')
    x = dot(matrix(axes, x, y, 'W', RED, 'M', 'K'))
    x = move(matrix(axes, x, y, 'X', BLUE, 'K', 'P'), 'U')
    tensor(axes, x + 0.03, y, 'x', BLUE, 'C×H×W×N')

    x = move(tensor(axes, 2.95, y, 'dw', RED, 'M×C×kh×kw'), 'Vᵀ')
    x = dot(matrix(axes, x, y, 'dY', GREEN, 'M', 'P'))
    matrix(axes, x, y, 'Xᵀ', BLUE, 'P', 'K')

    x = move(tensor(axes, 5.13, y, 'dx', BLUE, 'C×H×W×N'), 'Uᵀ')
    x = dot(matrix(axes, x, y, 'Wᵀ', RED, 'K', 'M'))
    matrix(axes, x, y, 'dY', GREEN, 'M', 'P')
    return figure


@drawn
def winograd():
    """Two outputs of two taps from three products; in two dimensions four outputs from nine."""
    figure, axes = canvas(COLUMN, 1.36)

    def cells(x: float, y: float, names: list, colour: str, side: float) -> None:
        """A grid of cells, the left upper corner at (x, y)."""
        for i, line in enumerate(names):
            for j, name in enumerate(line):
                left, bottom = x + j * side, y - (i + 1) * side
                cell(axes, left, bottom, side, side, colour)
                write(axes, left + side / 2, bottom + side / 2, name)

    cells(0.05, 1.32, [['x₀', 'x₁', 'x₂']], BLUE, 0.24)
    cells(0.05, 1.0, [['w₀', 'w₁']], RED, 0.24)
    for x, y, text in ((0.88, 1.21, 'm₀ = (x₀ − x₁) w₀'), (0.88, 1.04, 'm₁ = x₁ (w₀ + w₁)'),
                       (0.88, 0.87, 'm₂ = (x₂ − x₁) w₁'), (1.88, 1.13, 'y₀ = m₀ + m₁ = x₀w₀ + x₁w₁'),
                       (1.88, 0.96, 'y₁ = m₁ + m₂ = x₁w₀ + x₂w₁')):
        write(axes, x, y, text, 8, ha='left')
    axes.plot([0, COLUMN], [0.69, 0.69], color='#cccccc', lw=0.6)
    side, top = 0.13, 0.56
    middle = top - 1.5 * side
    for x, n, name, colour in ((0.05, 3, 'tile of x', BLUE), (0.8, 3, 'X', BLUE), (1.43, 3, 'W', RED),
                               (2.13, 2, 'w', RED), (2.98, 2, 'tile of y', GREEN)):
        cells(x, top - side * (3 - n) / 2, [[''] * n] * n, colour, side)
        write(axes, x + n * side / 2, 0.02, name, 7.5, va='bottom')
    for start, end, name, colour in ((0.49, 0.76, 'U', BLUE), (2.09, 1.87, 'V', RED)):
        arrow(axes, (start, middle), (end, middle), colour)
        write(axes, (start + end) / 2, middle + 0.03, name, 7.5, colour, va='bottom')
    write(axes, 1.31, middle, '·', 16)
    path(axes, [(1.31, middle + 0.06), (1.31, top + 0.06), (2.62, top + 0.06), (2.62, middle), (2.94, middle)], GREEN)
    write(axes, 2.78, middle + 0.03, 'A', 7.5, GREEN, va='bottom')
    return figure
