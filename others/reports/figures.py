"""The figures of the reports, drawn by matplotlib as SVG: each function returns the bytes of one.

The same numbers give the same bytes. Text stays text, in the font of the report.
"""
import functools
import io
import logging
from typing import Callable

import torch

from others import data
from others.common.plots import COLOURS, GREY

BLUE, RED, GREEN, PINK, YELLOW, SKY = COLOURS
COLUMN, PAGE = 3.38, 7.0            # inches: the width of a column, and of the page without its margins
GAP = 0.03                          # inches between images that belong together
MEASURED, SHOWN = 'STIXGeneral', 'Libertinus Serif'     # matplotlib has only the first, Typst the second
STYLE = {
    'svg.hashsalt': 'reports', 'svg.fonttype': 'none', 'font.family': [MEASURED, 'DejaVu Sans'], 'font.size': 8,
    'axes.spines.top': False, 'axes.spines.right': False, 'axes.linewidth': 0.6, 'axes.axisbelow': True,
    'axes.labelpad': 2, 'axes.titlesize': 8, 'axes.titlepad': 3,
    'xtick.major.width': 0.6, 'ytick.major.width': 0.6, 'xtick.major.size': 2.5, 'ytick.major.size': 2.5,
    'grid.color': '#dddddd', 'grid.linewidth': 0.5, 'lines.linewidth': 1.1, 'lines.markersize': 4,
    'legend.frameon': False, 'legend.fontsize': 7.5, 'legend.handlelength': 1.4, 'legend.borderaxespad': 0.2,
}
MINUS = str.maketrans('-', '−')


def drawn(draw: Callable) -> Callable:
    """A function that makes a matplotlib figure -> one that returns it as SVG, in the common style."""
    @functools.wraps(draw)
    def svg(*arguments) -> bytes:
        import matplotlib

        logging.getLogger('matplotlib.font_manager').setLevel(logging.ERROR)
        with matplotlib.rc_context(STYLE):
            content = io.BytesIO()
            draw(*arguments).savefig(content, format='svg', metadata={'Date': None, 'Creator': None})
        return content.getvalue().replace(MEASURED.encode(), SHOWN.encode())

    return svg


def in_symbols(noise: str) -> str:
    """The name of a noise as it is printed."""
    return noise.replace(' x ', ' × ').replace('sigma', 'σ')


def new_figure(width: float, height: float, **options):
    from matplotlib.figure import Figure

    return Figure((width, height), **options)


def place(figure, left: float, bottom: float, width: float, height: float):
    """Axes at a place in inches, of an empty drawing."""
    W, H = figure.get_size_inches()
    return figure.add_axes((left / W, bottom / H, width / W, height / H))


def show(axes, image: torch.Tensor, title: str = '') -> None:
    """uint8 (3, H, W), without interpolation or ticks."""
    axes.imshow(image.permute(1, 2, 0).numpy(), interpolation='none')
    axes.set_title(title)
    axes.axis('off')


# -------------------------------------------------------------------------------------- the noise

@drawn
def noise(photo: torch.Tensor, row: dict):
    """A square of a photograph, some of its blocks with two draws each, the images that result; what a row of the
    record of others.studies.residual says. photo: uint8 (3, 32 b, 32 b)."""
    from matplotlib.patches import Circle, Rectangle

    b = photo.shape[-1] // data.SIZE
    first, second, clean = data.point_sample(photo, torch.Generator().manual_seed(0))
    side, gap, bottom, height = 0.95, 0.05, 0.31, 1.45
    figure = new_figure(PAGE, height)
    tiles = [place(figure, i * (side + gap), bottom, side, side) for i in range(5)]

    top, left, count = 10, 13, 4                            # of the blocks that are enlarged
    show(tiles[0], photo, f'photograph ({photo.shape[-1]}²)')
    for colour, width in (('white', 1.6), ('black', 0.7)):
        tiles[0].add_patch(Rectangle((left * b - 0.5, top * b - 0.5), count * b, count * b, fill=False,
                                     ec=colour, lw=width))
    part = photo[:, top * b:(top + count) * b, left * b:(left + count) * b]
    show(tiles[1], part, f'{count}² of its {data.SIZE}² blocks')
    for k in range(1, count):
        tiles[1].axhline(k * b - 0.5, color='white', lw=0.8)
        tiles[1].axvline(k * b - 0.5, color='white', lw=0.8)
    for i in range(count):
        for j in range(count):
            block = part[:, i * b:(i + 1) * b, j * b:(j + 1) * b].flatten(1)            # (3, b b)
            for image, kind in ((first, Rectangle), (second, Circle)):
                drawn_colour = image[:, top + i, left + j, None]
                k = int((block == drawn_colour).all(0).nonzero()[0])
                y, x = i * b + k // b, j * b + k % b
                shape = {'xy': (x - 0.5, y - 0.5), 'width': 1, 'height': 1} if kind is Rectangle else {
                    'xy': (x, y), 'radius': 0.6}
                for colour, width in (('black', 1.7), ('white', 0.8)):
                    tiles[1].add_patch(kind(**shape, fill=False, ec=colour, lw=width))
    titles = 'version 1 (□)', 'version 2 (○)', 'block means'
    for axes, image, title in zip(tiles[2:], (first, second, clean), titles):
        show(axes, image, title)

    middle = len(row['neighbours']) // 2
    around = [line[middle - 1:middle + 2] for line in row['neighbours'][middle - 1:middle + 2]]
    axes = place(figure, 5 * (side + gap) + 0.12, bottom + 0.1, 0.75, 0.75)
    axes.imshow([[abs(value) for value in line] for line in around], cmap='Greys', vmin=0, vmax=1.4)
    for i, line in enumerate(around):
        for j, value in enumerate(line):
            text = '1' if i == j == 1 else f'{round(value, 3) + 0:+.3f}'.replace('0.', '.').translate(MINUS)
            axes.text(j, i, text, ha='center', va='center', size=6.5, color='white' if text == '1' else 'black')
    axes.set_xticks(range(3), ['−1', '0', '1'], size=7)
    axes.set_yticks(range(3), ['−1', '0', '1'], size=7)
    axes.tick_params(length=0, pad=1)
    axes.set_xlabel('offset (pixels)', size=7.5, labelpad=1)
    axes.set_title('  correlation')

    axes = place(figure, PAGE - 0.78, bottom, 0.7, side)
    x, y = zip(*row['by_contrast'])
    axes.plot(x, y, 'o-', color=BLUE, markersize=3)
    axes.set(xlim=0, ylim=0, title='strength', xticks=(0, 20, 40))
    axes.set_xlabel('contrast', size=7.5, labelpad=1)
    axes.set_ylabel('noise, rms', size=7.5, labelpad=1)
    axes.tick_params(labelsize=7, pad=1)
    axes.grid()
    return figure


def side_by_side(figure, left: float, bottom: float, side: float, images: list, above: list, below: list) -> list:
    """Images in a row, each with a title and a line below; in inches. -> their axes"""
    W, H = figure.get_size_inches()
    tiles = [place(figure, left + k * (side + GAP), bottom, side, side) for k in range(len(images))]
    for tile, image, title, line in zip(tiles, images, above, below):
        show(tile, image, title)
        tile.text(0.5, -0.03 / side, line, transform=tile.transAxes, ha='center', va='top', size=7.5)
    return tiles


@drawn
def pictures(rows: list, titles: list, corners: list):
    """Photographs as the projects see and denoise them, and an enlarged part of each version. rows: for each
    photograph a list of pairs (uint8 (3, H, W), the line below it); corners: top and left of its part, H / 3 wide."""
    from matplotlib.patches import Rectangle

    count, none = len(titles), [''] * len(titles)
    middle, top, line = 0.1, 0.16, 0.19
    side = (PAGE - middle - (2 * count - 2) * GAP) / (2 * count)
    figure = new_figure(PAGE, top + len(rows) * (side + line))
    for i, (row, (y, x)) in enumerate(zip(rows, corners)):
        bottom = (len(rows) - 1 - i) * (side + line) + line
        images, below = zip(*row)
        width = images[0].shape[-1] // 3
        parts = [image[:, y:y + width, x:x + width] for image in images]
        above = titles if i == 0 else none
        for tile in side_by_side(figure, 0, bottom, side, images, above, below):
            tile.add_patch(Rectangle((x - 0.5, y - 0.5), width, width, fill=False, ec='white', lw=0.8))
        side_by_side(figure, PAGE - count * (side + GAP) + GAP, bottom, side, parts, above, none)
    return figure


@drawn
def squares(groups: list, titles: list):
    """Small images, each in its versions, one beside the other. groups: for each image a list of pairs
    (uint8 (3, H, W), the line below it)."""
    count, middle, line, top = len(titles), 0.1, 0.16, 0.16
    side = (PAGE - (len(groups) - 1) * middle - len(groups) * (count - 1) * GAP) / (len(groups) * count)
    figure = new_figure(PAGE, top + side + line)
    for k, group in enumerate(groups):
        images, below = zip(*group)
        left = k * (count * (side + GAP) - GAP + middle)
        side_by_side(figure, left, line, side, images, titles, below)
    return figure


# ----------------------------------------------------------------------------------- the networks

def box(axes, x: float, y: float, width: float, height: float, text: str, colour: str, size: float = 7) -> None:
    """A rounded box around (x, y), with text."""
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, ec=colour, fc=colour + '22', lw=0.8,
                                  boxstyle='round,pad=0,rounding_size=0.03'))
    axes.text(x, y, text, ha='center', va='center', size=size, linespacing=1.05)


def arrow(axes, start: tuple, end: tuple, colour: str = 'black', **style) -> None:
    axes.annotate('', end, start, arrowprops={'arrowstyle': '-|>,head_width=0.12,head_length=0.22', 'color': colour,
                                              'lw': 0.8, 'shrinkA': 0, 'shrinkB': 0, **style})


def canvas(width: float, height: float) -> tuple:
    """A figure and axes whose unit is the inch."""
    figure = new_figure(width, height)
    axes = place(figure, 0, 0, width, height)
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis('off')
    return figure, axes


SHIFT = 0.12                        # inches: how much a level of the drawn network is narrower than the one above


def path(axes, points: list, colour: str) -> None:
    """A line of straight pieces through the points, with a head at its end."""
    axes.plot(*zip(*points[:-1], points[-1]), color=colour, lw=0.9, solid_joinstyle='round', zorder=1)
    arrow(axes, points[-2], points[-1], colour)


@drawn
def network_1(widths: list, blocks: list):
    """Project 1's network: a level of the encoder and of the decoder for each resolution; the channels and, but for
    the bottom, the blocks of each."""
    figure, axes = canvas(COLUMN, 1.94)
    top, step, high, wide, half = 1.64, 0.44, 0.22, 0.4, COLUMN / 2
    plus = {'ha': 'center', 'va': 'center', 'size': 11}
    for k, width in enumerate(widths):
        y, x = top - k * step, 0.9 + SHIFT * k          # of the encoder's block; the decoder's mirrors it
        size = f'{width}×H×W' if k == 0 else f'{width}×H/{2 ** k}×W/{2 ** k}'
        if k == len(widths) - 1:
            box(axes, half, y, wide, high, 'block', BLUE)
            axes.text(half, y - high / 2 - 0.02, size, ha='center', va='top', size=7, color=GREY)
            break
        last = k == len(widths) - 2
        add = COLUMN - x - wide / 2 - 0.12                      # where the skip connection is added
        box(axes, x, y, wide, high, f'{blocks[k]} blocks', BLUE)
        box(axes, COLUMN - x, y, wide, high, f'{blocks[k]} blocks', BLUE)
        path(axes, [(x + wide / 2, y), (add - 0.05, y)], GREY)
        axes.text(add, y, '⊕', **plus)
        axes.text(half - 0.06, y + 0.015, size, ha='center', va='bottom', size=7, color=GREY)
        below = y - step
        left = x - 0.15
        path(axes, [(left, y - high / 2), (left, below), ((half if last else x + SHIFT) - wide / 2, below)], RED)
        corner = [(half + wide / 2, below), (add, below)] if last else [(add, below + high / 2)]
        path(axes, [*corner, (add, y - 0.06)], GREEN)
        if k == 0:
            axes.text(x - 0.19, y - step / 2, 'conv 2×2, stride 2', ha='right', va='center', size=7, color=RED)
            axes.text(COLUMN - x + 0.02, y - step / 2, 'transposed\n2×2, stride 2', ha='left', va='center', size=7,
                      color=GREEN, linespacing=0.95)
    axes.text(0.06, top, 'x', ha='center', va='center', size=9, style='italic')
    axes.text(COLUMN - 0.06, top, '⊕', **plus)
    box(axes, 0.38, top, 0.38, high, 'conv\n3×3', GREY, 6)
    box(axes, COLUMN - 0.38, top, 0.38, high, 'conv\n3×3', GREY, 6)
    path(axes, [(0.1, top), (0.19, top)], 'black')
    path(axes, [(0.57, top), (0.69, top)], 'black')
    path(axes, [(COLUMN - 0.69, top), (COLUMN - 0.57, top)], 'black')
    path(axes, [(COLUMN - 0.19, top), (COLUMN - 0.1, top)], 'black')
    over = top + 0.27
    path(axes, [(0.06, top + 0.07), (0.06, over), (COLUMN - 0.06, over), (COLUMN - 0.06, top + 0.06)], 'black')
    axes.text(half, top + 0.25, 'the input is added: the network computes a correction', ha='center', va='top', size=7)
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
        path(axes, [(x - step / 2 - (0.05 if k == 0 else 0.135), y), (x - wide / 2, y)], 'black')
    path(axes, [(0.05 + 3.5 * step + wide / 2, y), (COLUMN, y)], 'black')
    for k, shape in enumerate(shapes):
        x = min(max(0.05 + step * k, 0.24), COLUMN - 0.24)
        axes.text(x, 0.16, shape, ha='center', va='center', size=6.5, color=GREY)
    return figure


@drawn
def variants(groups: list, label: str):
    """Trainings of equal length, a line each. groups: (title, [(name, [dB of each seed])], the first name is what
    the others of the group differ from by one thing)."""
    lines = sum(len(rows) + 1 for _, rows in groups)
    figure = new_figure(COLUMN, 0.41 + 0.116 * (lines + 0.4 * len(groups)))
    H = figure.get_size_inches()[1]
    axes = place(figure, 1.72, 0.33, COLUMN - 1.76, H - 0.39)
    y, ticks = 0, []
    for title, rows in groups:
        axes.annotate(title, (0, y), (-1.7 * 72, 0), axes.get_yaxis_transform(), 'offset points', va='center',
                      size=7.5, weight='bold')
        y += 1
        base = rows[0][1]
        mean = sum(base) / len(base)
        axes.plot([mean, mean], [y - 0.5, y + len(rows) - 0.5], color=GREY, lw=0.7, zorder=1)
        for name, values in rows:
            first = name == rows[0][0]
            axes.plot(values, [y] * len(values), 'o', color=GREY if first else BLUE, markersize=3, alpha=0.55, mew=0)
            axes.plot([sum(values) / len(values)], [y], '|', color='black' if first else BLUE, markersize=7, mew=1.4)
            ticks.append((y, name))
            y += 1
        y += 0.4
    axes.set_yticks(*zip(*ticks), size=7)
    axes.set_ylim(y - 0.8, -0.6)
    axes.tick_params(axis='y', length=0)
    axes.tick_params(axis='x', labelsize=7)
    axes.set_xlabel(label, size=7.5)
    axes.spines['left'].set_visible(False)
    axes.grid(axis='x')
    return figure


@drawn
def saturation(curves: list, points: list, label: str):
    """PSNR against the pairs seen, on a logarithmic axis. curves: (name, [(pairs, dB)]), of one training each; points:
    (name, [(pairs, dB)]), a training of its own each."""
    figure = new_figure(COLUMN, 1.98)
    axes = place(figure, 0.42, 0.34, COLUMN - 0.48, 1.15)
    for (name, line), colour in zip(curves, (BLUE, RED, GREEN, PINK)):
        axes.plot(*zip(*line), color=colour, label=name)
    for (name, dots), colour, marker in zip(points, (BLUE, BLUE, SKY), 'os^'):
        axes.plot(*zip(*dots), marker, color=colour, label=name, mfc='white', mew=1)
    axes.set_xscale('log')
    axes.set_xlabel('pairs seen', size=7.5)
    axes.set_ylabel(label, size=7.5)
    axes.tick_params(labelsize=7)
    axes.grid()
    axes.legend(loc='lower center', bbox_to_anchor=(0.45, 1), ncols=2, labelspacing=0.25, columnspacing=1.2)
    return figure


@drawn
def epochs(curves: dict, label: str):
    """PSNR by epoch of several seeds, a line each, and their mean; the second system's dashed. curves: {name: [[dB],
    one list for each seed]}."""
    figure = new_figure(COLUMN, 1.62)
    axes = place(figure, 0.42, 0.34, COLUMN - 0.48, 1.1)
    for (name, seeds), colour, style in zip(curves.items(), (BLUE, RED), ('-', '--')):
        xs = range(1, len(seeds[0]) + 1)
        for line in seeds:
            axes.plot(xs, line, style, color=colour, lw=0.6, alpha=0.6)
        axes.plot(xs, [sum(at) / len(at) for at in zip(*seeds)], 'o' + style, color=colour, lw=1.5, label=name)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel('epoch', size=7.5)
    axes.set_ylabel(label, size=7.5)
    axes.tick_params(labelsize=7)
    axes.grid()
    axes.legend(loc='lower right')
    return figure


@drawn
def sweeps(panels: list):
    """Lines side by side, two in a row. panels: (title, label of the horizontal axis, [(name, [(x, dB)])]);
    what is 'reported' is black and hollow."""
    rows = -(-len(panels) // 2)
    figure = new_figure(COLUMN, 1.4 * rows)
    for k, (title, label, lines) in enumerate(panels):
        axes = place(figure, 0.4 + (COLUMN / 2) * (k % 2), 1.4 * (rows - 1 - k // 2) + 0.34, COLUMN / 2 - 0.45, 0.84)
        for (name, points), colour, style in zip(lines, (BLUE, RED, GREEN, PINK), ('-', '--', '-.', ':')):
            reported = name == 'reported'
            axes.plot(*zip(*points), 'o' + style, color='black' if reported else colour, label=name, lw=0.9,
                      markersize=2.5, mfc='white' if reported else colour)
        axes.set_title(title, size=7.5)
        axes.set_xlabel(label, size=7)
        axes.tick_params(labelsize=6.5)
        axes.grid()
        if len(lines) > 1:
            axes.legend(fontsize=6, handlelength=1.8, labelspacing=0.2)
    return figure


@drawn
def noises(rows: list):
    """Gain over the noisy input, of the best blur and both projects, for each kind of noise; hollow: weights that
    were trained on the course's noise alone."""
    figure = new_figure(COLUMN, 0.54 + 0.12 * len(rows))
    H = figure.get_size_inches()[1]
    axes = place(figure, 1.06, 0.33, COLUMN - 1.12, H - 0.54)
    ys = range(len(rows))
    axes.axvline(0, color='black', lw=0.7)
    for name, marker, colour in (('project 2, given', 's', RED), ('project 1, given', 'o', BLUE),
                                 ('best blur', '|', 'black'), ('project 2', 's', RED), ('project 1', 'o', BLUE)):
        hollow = name.endswith(', given')
        axes.plot([row[name] - row['noisy input'] for row in rows], ys, marker, color=colour,
                  label=None if hollow else name, mfc='none' if hollow else colour,
                  markersize=7 if marker == '|' else 3.5, mew=1.2 if marker == '|' else 0.7 * hollow)
    axes.set_yticks(ys, [in_symbols(row['noise']) for row in rows], size=7)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis='y', length=0)
    axes.tick_params(axis='x', labelsize=7)
    axes.set_xlabel('gain over the noisy input (dB)', size=7.5)
    axes.grid(axis='x')
    axes.legend(loc='lower center', bbox_to_anchor=(0.4, 1), ncols=3, columnspacing=1, handletextpad=0.3)
    return figure


# ----------------------------------------------------------------------------------- the framework

def matrix(axes, x: float, y: float, width: float, height: float, name: str, colour: str, rows: str,
           columns: str) -> float:
    """A stack of matrices around the height y, its left side at x, its name inside, its size at two sides. -> its
    right side."""
    from matplotlib.patches import Rectangle

    x += 0.13                                       # room for the number of rows
    for shift, fill in ((0.04, 'white'), (0.04, colour + '22'), (0, 'white'), (0, colour + '22')):
        axes.add_patch(Rectangle((x + shift, y - height / 2 + shift), width, height, ec=colour, fc=fill, lw=0.8))
    axes.text(x + width / 2, y, name, ha='center', va='center', size=8)
    axes.text(x - 0.02, y, rows, ha='right', va='center', size=6.5, color=GREY)
    axes.text(x + width / 2, y + height / 2 + 0.05, columns, ha='center', va='bottom', size=6.5, color=GREY)
    return x + width + 0.04


def tensor(axes, x: float, y: float, name: str, colour: str, shape: str) -> float:
    """Planes one behind the other around the height y, the left side at x: a tensor and its shape. -> its right
    side."""
    from matplotlib.patches import Rectangle

    side, shift = 0.28, 0.04
    for k in (2, 1, 0):
        for fill in ('white', colour + '22'):
            corner = x + shift * k, y - side / 2 + shift * (k - 1)
            axes.add_patch(Rectangle(corner, side, side, ec=colour, fc=fill, lw=0.8))
    axes.text(x + side / 2, y - shift, name, ha='center', va='center', size=8)
    axes.text(x + side / 2 + shift, y - side / 2 - shift - 0.02, shape, ha='center', va='top', size=6.5, color=GREY)
    return x + side + 2 * shift


@drawn
def convolution():
    """The three maps of a convolution as products of matrices, with shapes."""
    figure, axes = canvas(PAGE, 0.97)
    K, M, P, y = 0.36, 0.22, 0.46, 0.4              # the three sizes of the matrices; the height of the row
    image, kernel, output = 'C×H×W×N', 'M×C×kh×kw', 'M×Ho×Wo×N'

    def title(x: float, text: str) -> None:
        axes.text(x, 0.96, text, ha='left', va='top', size=8, weight='bold')

    def dot(x: float) -> float:
        axes.text(x + 0.06, y, '·', ha='center', va='center', size=11)
        return x + 0.08

    def move(x: float, name: str) -> float:
        """An arrow from right to left, with the name of a map."""
        arrow(axes, (x + 0.3, y), (x + 0.05, y))
        axes.text(x + 0.19, y + 0.03, name, ha='center', va='bottom', size=7.5)
        return x + 0.3

    title(0, 'output')
    x = move(tensor(axes, 0.12, y, 'y', GREEN, output), 'A')
    x = dot(matrix(axes, x, y, K, M, 'W', RED, 'M', 'K'))
    x = move(matrix(axes, x, y, P, K, 'X', BLUE, 'K', 'P'), 'U')
    tensor(axes, x + 0.03, y, 'x', BLUE, image)

    title(2.8, 'gradient of the weight')
    x = move(tensor(axes, 2.95, y, 'dw', RED, kernel), 'Vᵀ')
    x = dot(matrix(axes, x, y, P, M, 'dY', GREEN, 'M', 'P'))
    matrix(axes, x, y, K, P, 'Xᵀ', BLUE, 'P', 'K')

    title(5.06, 'gradient of the input')
    x = move(tensor(axes, 5.13, y, 'dx', BLUE, image), 'Uᵀ')
    x = dot(matrix(axes, x, y, M, K, 'Wᵀ', RED, 'K', 'M'))
    matrix(axes, x, y, P, M, 'dY', GREEN, 'M', 'P')
    return figure


@drawn
def winograd():
    """Two outputs of two taps from three products; in two dimensions four outputs from nine."""
    from matplotlib.patches import Rectangle

    figure, axes = canvas(COLUMN, 1.36)

    def cells(x: float, y: float, names: list, colour: str, side: float = 0.2) -> None:
        """A grid of cells, the left upper corner at (x, y)."""
        for i, line in enumerate(names):
            for j, name in enumerate(line):
                left, bottom = x + j * side, y - (i + 1) * side
                axes.add_patch(Rectangle((left, bottom), side, side, ec=colour, fc=colour + '22', lw=0.8))
                axes.text(left + side / 2, bottom + side / 2, name, ha='center', va='center', size=7)

    cells(0.05, 1.32, [['x₀', 'x₁', 'x₂']], BLUE, 0.24)
    cells(0.05, 1.0, [['w₀', 'w₁']], RED, 0.24)
    for k, line in enumerate(('m₀ = (x₀ − x₁) w₀', 'm₁ = x₁ (w₀ + w₁)', 'm₂ = (x₂ − x₁) w₁')):
        axes.text(0.88, 1.21 - 0.17 * k, line, ha='left', va='center', size=8)
    for k, line in enumerate(('y₀ = m₀ + m₁ = x₀w₀ + x₁w₁', 'y₁ = m₁ + m₂ = x₁w₀ + x₂w₁')):
        axes.text(1.88, 1.13 - 0.17 * k, line, ha='left', va='center', size=8)
    axes.plot([0, COLUMN], [0.69, 0.69], color='#cccccc', lw=0.6)
    side, top = 0.13, 0.56
    middle = top - 1.5 * side
    grids = [(0.05, 3, 'tile of x', BLUE), (0.8, 3, 'X', BLUE), (1.43, 3, 'W', RED), (2.13, 2, 'w', RED),
             (2.98, 2, 'tile of y', GREEN)]
    for x, n, name, colour in grids:
        cells(x, top - side * (3 - n) / 2, [[''] * n] * n, colour, side)
        axes.text(x + n * side / 2, 0.02, name, ha='center', va='bottom', size=7.5)
    for start, end, name, colour in ((0.49, 0.76, 'U', BLUE), (2.09, 1.87, 'V', RED)):
        arrow(axes, (start, middle), (end, middle), colour)
        axes.text((start + end) / 2, middle + 0.03, name, ha='center', va='bottom', size=7.5, color=colour)
    axes.text(1.31, middle, '·', ha='center', va='center', size=16)
    path(axes, [(1.31, middle + 0.06), (1.31, top + 0.06), (2.62, top + 0.06), (2.62, middle), (2.94, middle)], GREEN)
    axes.text(2.78, middle + 0.03, 'A', ha='center', va='bottom', size=7.5, color=GREEN)
    return figure


@drawn
def exactness(rows: list):
    """The largest error of a result, over random configurations: from the 5 % quantile to the largest, the median
    marked; ours and torch.nn's."""
    figure = new_figure(COLUMN, 0.51 + 0.13 * len(rows))
    H = figure.get_size_inches()[1]
    axes = place(figure, 1.5, 0.33, COLUMN - 1.56, H - 0.51)
    ticks, before = [], None
    for y, row in enumerate(rows):
        for name, colour, shift in (('torch.nn', GREY, 0.17), ('ours', BLUE, -0.17)):
            low, median, high = row[name][1], row[name][3], row[name][-1]
            axes.plot([low, high], [y + shift] * 2, color=colour, lw=1.5, solid_capstyle='butt',
                      label=name if y == 0 else None)
            axes.plot([median], [y + shift], 'o', color=colour, markersize=3, mew=0)
        short = row['quantity'].replace('gradient of the ', 'd ')
        ticks.append(short if row['block'] == before else f"{row['block']}: {short}")
        before = row['block']
    axes.set_xscale('log')
    axes.set_yticks(range(len(rows)), ticks, size=7)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis='y', length=0)
    axes.tick_params(axis='x', labelsize=7)
    axes.set_xlabel('largest error / largest value', size=7.5)
    axes.grid(axis='x')
    axes.legend(loc='lower center', bbox_to_anchor=(0.4, 1), ncols=2, columnspacing=1)
    return figure


@drawn
def speed(rows: list):
    """Times and memory relative to torch.nn's better format, with the quartiles of the times in float32. rows: of the
    record of bench_framework."""
    figure = new_figure(COLUMN, 0.51 + 0.135 * len(rows))
    H = figure.get_size_inches()[1]
    axes = place(figure, 0.92, 0.33, COLUMN - 0.98, H - 0.51)
    axes.axvline(1, color='black', lw=0.7)
    for y, row in enumerate(rows):
        best = min(row['torch.nn'], row['channels-last'])
        marks = [('torch.nn, both formats', '|', GREY, row['torch.nn'] / best),
                 ('torch.nn, both formats', '|', GREY, row['channels-last'] / best),
                 ('ours, float32', 'o', BLUE, row['ratio']),
                 ('ours / autocast, bfloat16', 's', RED, row['ours mixed'] / row['autocast'])]
        if 'ratio_low' in row:
            axes.plot([row['ratio_low'], row['ratio_high']], [y, y], color=BLUE, solid_capstyle='butt')
        for k, (name, marker, colour, value) in enumerate(marks):
            axes.plot([value], [y], marker, color=colour, markersize=7 if marker == '|' else 4,
                      mew=1.2 if marker == '|' else 0, label=name if y == 0 and k else None)
    axes.set_yticks(range(len(rows)), [f"{row['network']}, {row['task']}" for row in rows], size=7)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis='y', length=0)
    axes.tick_params(axis='x', labelsize=7)
    axes.set_xlabel("relative to torch.nn's better format (autocast)", size=7.5)
    axes.grid(axis='x')
    axes.legend(loc='lower center', bbox_to_anchor=(0.35, 1), ncols=3, columnspacing=0.8, handletextpad=0.1)
    return figure
