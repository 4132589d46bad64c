"""Triton kernels of instance_norm.py, where they are derived and their bytes are counted.

Strides come as tuples (n, c, h, w). Results are dense: their rows follow each other without a gap.
"""

from fastliver.kernels.dispatch import tl, triton
from fastliver.kernels.geometry import load_folded, padded_source, plane_offsets, tile


@triton.jit
def _activate(x_hat, slope, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        # A comparison, not a maximum: NaN must stay NaN.
        return tl.where(x_hat <= 0, 0.0, x_hat)
    elif ACTIVATION == "leaky_relu":
        return tl.where(x_hat > 0, x_hat, x_hat * slope)
    else:
        return x_hat


@triton.jit
def _through_activation(grad, x_hat, slope, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        return tl.where(x_hat <= 0, 0.0, grad)
    elif ACTIVATION == "leaky_relu":
        return tl.where(x_hat > 0, grad, grad * slope)
    else:
        return grad


@triton.jit
def _load_x(x_ptr, x_s, pixels, channels, n, mask, W: tl.constexpr, DENSE: tl.constexpr):
    offsets = n * x_s[0] + plane_offsets(pixels, W, x_s, DENSE) + channels * x_s[1]
    return tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _tile_statistics(x, origin, mask, count):
    """Mean over pixels and the sum of squares about it, (1, BLOCK_C) each.

    Taken of what is left without `origin`, the tile's first pixel: sums of small numbers, and exactly 0 for a constant.
    """
    x = tl.where(mask, x - origin, 0.0)
    mean = tl.sum(x, 0, keep_dims=True) / count
    centred = tl.where(mask, x - mean, 0.0)
    return origin + mean, tl.sum(centred * centred, 0, keep_dims=True)


@triton.jit
def _write(
    x, y_ptr, y_s, r_ptr, r_s, mean, rstd, slope, pixels, row, column, channels, n, mask, ACTIVATION: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Normalise x of (row, column), activate, add the residual there, and write `pixels` of the dense result."""
    y = _activate((x - mean) * rstd, slope, ACTIVATION)
    if HAS_RESIDUAL:
        offsets = n * r_s[0] + row * r_s[2] + column * r_s[3] + channels * r_s[1]
        y += tl.load(r_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + n * y_s[0] + pixels * y_s[3] + channels * y_s[1], y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _write_padded(
    x_ptr, x_s, y_ptr, y_s, r_ptr, r_s, mean, rstd, slope, first, channels, n, C: tl.constexpr, H: tl.constexpr,
    W: tl.constexpr, PAD: tl.constexpr, ACTIVATION: tl.constexpr, HAS_RESIDUAL: tl.constexpr, X_DENSE: tl.constexpr,
    BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Read and `_write` the BLOCK_P padded pixels from `first` on."""
    pixels = first + tl.arange(0, BLOCK_P)[:, None]
    mask = (pixels < (H + 2 * PAD) * (W + 2 * PAD)) & (channels < C)
    row, column = padded_source(pixels, H, W, PAD)
    source = row * W + column if PAD else pixels
    x = _load_x(x_ptr, x_s, source, channels, n, mask, W, X_DENSE)
    _write(x, y_ptr, y_s, r_ptr, r_s, mean, rstd, slope, pixels, row, column, channels, n, mask, ACTIVATION,
           HAS_RESIDUAL)  # fmt: skip


@triton.jit
def plane_forward(
    x_ptr, x_s, y_ptr, y_s, r_ptr, r_s, mean_ptr, rstd_ptr, eps, slope, C: tl.constexpr, H: tl.constexpr,
    W: tl.constexpr, PAD: tl.constexpr, ACTIVATION: tl.constexpr, HAS_RESIDUAL: tl.constexpr, X_DENSE: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One program, one plane: statistics from registers, and the result too unless its padding needs neighbours."""
    pixels, channels, n = tile(BLOCK_P, BLOCK_C)
    mask = (pixels < H * W) & (channels < C)
    x = _load_x(x_ptr, x_s, pixels, channels, n, mask, W, X_DENSE)
    origin = _load_x(x_ptr, x_s, 0, channels, n, channels < C, W, X_DENSE)
    mean, squares = _tile_statistics(x, origin, mask, H * W)
    rstd = 1.0 / tl.sqrt(squares / (H * W) + eps)
    tl.store(mean_ptr + n * C + channels, mean, mask=channels < C)
    tl.store(rstd_ptr + n * C + channels, rstd, mask=channels < C)
    if PAD == 0:
        _write(x, y_ptr, y_s, r_ptr, r_s, mean, rstd, slope, pixels, pixels // W, pixels % W, channels, n, mask,
               ACTIVATION, HAS_RESIDUAL)  # fmt: skip
    else:
        # A padded plane is larger than the tile: a few rounds, whose reads of x hit the cache.
        for first in range(0, (H + 2 * PAD) * (W + 2 * PAD), BLOCK_P):
            _write_padded(
                x_ptr, x_s, y_ptr, y_s, r_ptr, r_s, mean, rstd, slope, first, channels, n, C, H, W, PAD, ACTIVATION,
                HAS_RESIDUAL, X_DENSE, BLOCK_P,
            )  # fmt: skip


@triton.jit
def partial_statistics(
    x_ptr, x_s, partial_ptr, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, X_DENSE: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squares of one tile, to partial (N, tiles, 2, C)."""
    pixels, channels, n = tile(BLOCK_P, BLOCK_C)
    mask = (pixels < H * W) & (channels < C)
    x = _load_x(x_ptr, x_s, pixels, channels, n, mask, W, X_DENSE)
    count = tl.minimum(BLOCK_P, H * W - tl.program_id(0) * BLOCK_P)
    origin = _load_x(x_ptr, x_s, tl.program_id(0) * BLOCK_P, channels, n, channels < C, W, X_DENSE)
    mean, squares = _tile_statistics(x, origin, mask, count)
    place = partial_ptr + (n * tl.num_programs(0) + tl.program_id(0)) * 2 * C + channels
    tl.store(place, mean, mask=channels < C)
    tl.store(place + C, squares, mask=channels < C)


@triton.jit
def merge_statistics(
    partial_ptr, mean_ptr, rstd_ptr, eps, C: tl.constexpr, P: tl.constexpr, TILES: tl.constexpr, TILE_P: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Mean and rstd of each plane from its tiles' statistics, BLOCK_P tiles at a time, in order."""
    rows, channels, n = tile(BLOCK_P, BLOCK_C)
    origin = tl.load(partial_ptr + n * TILES * 2 * C + channels, mask=channels < C, other=0.0)
    total = tl.zeros((1, BLOCK_C), tl.float32)
    for first in range(0, TILES, BLOCK_P):
        tiles = first + rows
        mask = (tiles < TILES) & (channels < C)
        count = tl.minimum(TILE_P, P - tiles * TILE_P).to(tl.float32)
        mean = tl.load(partial_ptr + (n * TILES + tiles) * 2 * C + channels, mask=mask, other=0.0)
        total += tl.sum(tl.where(mask, (mean - origin) * count, 0.0), 0, keep_dims=True)
    centre = origin + total / P
    squares = tl.zeros((1, BLOCK_C), tl.float32)
    for first in range(0, TILES, BLOCK_P):
        tiles = first + rows
        mask = (tiles < TILES) & (channels < C)
        count = tl.minimum(TILE_P, P - tiles * TILE_P).to(tl.float32)
        place = partial_ptr + (n * TILES + tiles) * 2 * C + channels
        apart = tl.load(place, mask=mask, other=0.0) - centre
        within = tl.load(place + C, mask=mask, other=0.0)
        squares += tl.sum(tl.where(mask, within + apart * apart * count, 0.0), 0, keep_dims=True)
    tl.store(mean_ptr + n * C + channels, centre, mask=channels < C)
    tl.store(rstd_ptr + n * C + channels, 1.0 / tl.sqrt(squares / P + eps), mask=channels < C)


@triton.jit
def apply_forward(
    x_ptr, x_s, y_ptr, y_s, r_ptr, r_s, mean_ptr, rstd_ptr, slope, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    PAD: tl.constexpr, ACTIVATION: tl.constexpr, HAS_RESIDUAL: tl.constexpr, X_DENSE: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One tile of the padded result."""
    _, channels, n = tile(BLOCK_P, BLOCK_C)
    mean = tl.load(mean_ptr + n * C + channels, mask=channels < C, other=0.0)
    rstd = tl.load(rstd_ptr + n * C + channels, mask=channels < C, other=0.0)
    _write_padded(
        x_ptr, x_s, y_ptr, y_s, r_ptr, r_s, mean, rstd, slope, tl.program_id(0) * BLOCK_P, channels, n, C, H, W, PAD,
        ACTIVATION, HAS_RESIDUAL, X_DENSE, BLOCK_P,
    )  # fmt: skip


@triton.jit
def _read_gradient(
    dy_ptr, dy_s, s_ptr, s_s, x_ptr, x_s, mean_ptr, rstd_ptr, slope, pixels, channels, n, mask, C: tl.constexpr,
    H: tl.constexpr, W: tl.constexpr, PAD: tl.constexpr, ACTIVATION: tl.constexpr, HAS_SHORTCUT: tl.constexpr,
    X_DENSE: tl.constexpr, DY_DENSE: tl.constexpr,
):  # fmt: skip
    """g, h, x-hat and rstd of a tile, in the names of the module's text."""
    g = load_folded(dy_ptr + n * dy_s[0], dy_s, pixels, channels, mask, H, W, PAD, DY_DENSE)
    if HAS_SHORTCUT:
        offsets = n * s_s[0] + (pixels // W) * s_s[2] + (pixels % W) * s_s[3] + channels * s_s[1]
        g += tl.load(s_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    mean = tl.load(mean_ptr + n * C + channels, mask=channels < C, other=0.0)
    rstd = tl.load(rstd_ptr + n * C + channels, mask=channels < C, other=0.0)
    x_hat = (_load_x(x_ptr, x_s, pixels, channels, n, mask, W, X_DENSE) - mean) * rstd
    h = _through_activation(g, x_hat, slope, ACTIVATION)
    # Beyond the mask x is read as 0, so x-hat isn't 0 there: h is, and both sums need no more.
    return g, h, x_hat, rstd


@triton.jit
def plane_backward(
    dy_ptr, dy_s, s_ptr, s_s, x_ptr, x_s, mean_ptr, rstd_ptr, dx_ptr, dx_s, dr_ptr, slope, C: tl.constexpr,
    H: tl.constexpr, W: tl.constexpr, PAD: tl.constexpr, ACTIVATION: tl.constexpr, HAS_SHORTCUT: tl.constexpr,
    WANTS_DR: tl.constexpr, X_DENSE: tl.constexpr, DY_DENSE: tl.constexpr, BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One program, one plane: x and the gradient are read once. dx and dr are dense and have the same strides."""
    pixels, channels, n = tile(BLOCK_P, BLOCK_C)
    mask = (pixels < H * W) & (channels < C)
    g, h, x_hat, rstd = _read_gradient(
        dy_ptr, dy_s, s_ptr, s_s, x_ptr, x_s, mean_ptr, rstd_ptr, slope, pixels, channels, n, mask, C, H, W, PAD,
        ACTIVATION, HAS_SHORTCUT, X_DENSE, DY_DENSE,
    )  # fmt: skip
    offsets = n * dx_s[0] + pixels * dx_s[3] + channels * dx_s[1]
    if WANTS_DR:
        tl.store(dr_ptr + offsets, g.to(dr_ptr.dtype.element_ty), mask=mask)
    mean_h = tl.sum(h, 0, keep_dims=True) / (H * W)
    mean_hx = tl.sum(h * x_hat, 0, keep_dims=True) / (H * W)
    dx = rstd * (h - mean_h - x_hat * mean_hx)
    tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit
def partial_backward(
    dy_ptr, dy_s, s_ptr, s_s, x_ptr, x_s, mean_ptr, rstd_ptr, dr_ptr, dr_s, partial_ptr, slope, C: tl.constexpr,
    H: tl.constexpr, W: tl.constexpr, PAD: tl.constexpr, ACTIVATION: tl.constexpr, HAS_SHORTCUT: tl.constexpr,
    WANTS_DR: tl.constexpr, X_DENSE: tl.constexpr, DY_DENSE: tl.constexpr, BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sums of h and h * x-hat over one tile, to partial (N, tiles, 2, C); writes d_residual on the way."""
    pixels, channels, n = tile(BLOCK_P, BLOCK_C)
    mask = (pixels < H * W) & (channels < C)
    g, h, x_hat, _ = _read_gradient(
        dy_ptr, dy_s, s_ptr, s_s, x_ptr, x_s, mean_ptr, rstd_ptr, slope, pixels, channels, n, mask, C, H, W, PAD,
        ACTIVATION, HAS_SHORTCUT, X_DENSE, DY_DENSE,
    )  # fmt: skip
    if WANTS_DR:
        offsets = n * dr_s[0] + pixels * dr_s[3] + channels * dr_s[1]
        tl.store(dr_ptr + offsets, g.to(dr_ptr.dtype.element_ty), mask=mask)
    place = partial_ptr + (n * tl.num_programs(0) + tl.program_id(0)) * 2 * C + channels
    tl.store(place, tl.sum(h, 0, keep_dims=True), mask=channels < C)
    tl.store(place + C, tl.sum(h * x_hat, 0, keep_dims=True), mask=channels < C)


@triton.jit
def merge_backward(
    partial_ptr, sums_ptr, C: tl.constexpr, TILES: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Sums (N, 2, C) over the tiles, BLOCK_P at a time, in order."""
    rows, channels, n = tile(BLOCK_P, BLOCK_C)
    sum_h = tl.zeros((1, BLOCK_C), tl.float32)
    sum_hx = tl.zeros((1, BLOCK_C), tl.float32)
    for first in range(0, TILES, BLOCK_P):
        tiles = first + rows
        mask = (tiles < TILES) & (channels < C)
        place = partial_ptr + (n * TILES + tiles) * 2 * C + channels
        sum_h += tl.sum(tl.load(place, mask=mask, other=0.0), 0, keep_dims=True)
        sum_hx += tl.sum(tl.load(place + C, mask=mask, other=0.0), 0, keep_dims=True)
    tl.store(sums_ptr + n * 2 * C + channels, sum_h, mask=channels < C)
    tl.store(sums_ptr + n * 2 * C + C + channels, sum_hx, mask=channels < C)


@triton.jit
def apply_backward(
    dy_ptr, dy_s, s_ptr, s_s, x_ptr, x_s, mean_ptr, rstd_ptr, sums_ptr, dx_ptr, dx_s, slope, C: tl.constexpr,
    H: tl.constexpr, W: tl.constexpr, PAD: tl.constexpr, ACTIVATION: tl.constexpr, HAS_SHORTCUT: tl.constexpr,
    X_DENSE: tl.constexpr, DY_DENSE: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One tile of dx."""
    pixels, channels, n = tile(BLOCK_P, BLOCK_C)
    mask = (pixels < H * W) & (channels < C)
    _, h, x_hat, rstd = _read_gradient(
        dy_ptr, dy_s, s_ptr, s_s, x_ptr, x_s, mean_ptr, rstd_ptr, slope, pixels, channels, n, mask, C, H, W, PAD,
        ACTIVATION, HAS_SHORTCUT, X_DENSE, DY_DENSE,
    )  # fmt: skip
    mean_h = tl.load(sums_ptr + n * 2 * C + channels, mask=channels < C, other=0.0) / (H * W)
    mean_hx = tl.load(sums_ptr + n * 2 * C + C + channels, mask=channels < C, other=0.0) / (H * W)
    dx = rstd * (h - mean_h - x_hat * mean_hx)
    offsets = n * dx_s[0] + pixels * dx_s[3] + channels * dx_s[1]
    tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=mask)
