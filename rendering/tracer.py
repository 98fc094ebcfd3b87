"""Photographs of a textured mesh on one CPU core, with ``warp``: z-buffer, shadow map, then light for each sample.

Camera space: x to the image's right, y down, z away from the camera; lengths in metres.
"""

import cv2
import numpy as np
import warp as wp

wp.config.quiet = True
WRAP = 0.25  # light that seeps round the edge of the lit side, as through skin
SHADOW_SIDE = 320  # texels of the shadow map, which spans the mesh
SHADOW_BIAS = 0.002  # metres a surface may lie behind another before that one shades it
SHADE = 0.12  # of the first light that reaches what is in its shadow
NOTHING = wp.constant(wp.int64(2**62))
DEPTH_STEPS = wp.constant(1.0e8)  # a unit of depth, as whole numbers, in the upper half of a buffer's entry


@wp.kernel
def rasterise(
    screen: wp.array(dtype=wp.vec3), faces: wp.array(dtype=int), side: int, nearest: wp.array(dtype=wp.int64)
):
    """One triangle a thread: the nearest one of each pixel, as depth << 32 | triangle.

    ``screen``: x, y in pixels and a depth in -10..10 that is linear on the screen, small when near.
    """
    face = wp.tid()
    a, b, c = screen[faces[3 * face]], screen[faces[3 * face + 1]], screen[faces[3 * face + 2]]
    area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
    if wp.abs(area) < 1.0e-9:
        return
    left = wp.max(0, int(wp.ceil(wp.min(wp.min(a[0], b[0]), c[0]) - 0.5)))
    right = wp.min(side - 1, int(wp.floor(wp.max(wp.max(a[0], b[0]), c[0]) - 0.5)))
    top = wp.max(0, int(wp.ceil(wp.min(wp.min(a[1], b[1]), c[1]) - 0.5)))
    bottom = wp.min(side - 1, int(wp.floor(wp.max(wp.max(a[1], b[1]), c[1]) - 0.5)))
    for row in range(top, bottom + 1):
        y = float(row) + 0.5
        for column in range(left, right + 1):
            x = float(column) + 0.5
            wb = ((x - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (y - a[1])) / area
            wc = ((b[0] - a[0]) * (y - a[1]) - (x - a[0]) * (b[1] - a[1])) / area
            if wb >= 0.0 and wc >= 0.0 and wb + wc <= 1.0:
                depth = a[2] + wb * (b[2] - a[2]) + wc * (c[2] - a[2])
                entry = (wp.int64((depth + 10.0) * DEPTH_STEPS) << wp.int64(32)) | wp.int64(face)
                wp.atomic_min(nearest, row * side + column, entry)


@wp.func
def texel_of(texture: wp.array(dtype=wp.vec4, ndim=2), u: float, v: float) -> wp.vec4:
    """Bilinear; the fourth channel is how glossy the surface is."""
    height, width = float(texture.shape[0]), float(texture.shape[1])
    x = wp.clamp(u * width - 0.5, 0.0, width - 1.001)
    y = wp.clamp(v * height - 0.5, 0.0, height - 1.001)
    i, j = int(y), int(x)
    fy, fx = y - float(i), x - float(j)
    top = texture[i, j] * (1.0 - fx) + texture[i, j + 1] * fx
    low = texture[i + 1, j] * (1.0 - fx) + texture[i + 1, j + 1] * fx
    return top * (1.0 - fy) + low * fy


@wp.func
def reached(shadow: wp.array(dtype=wp.int64), side: int, column: int, row: int, depth: float) -> float:
    """1 where the light reaches a depth, 0 in shadow."""
    if column < 0 or row < 0 or column >= side or row >= side:
        return 1.0
    blocker = float(shadow[row * side + column] >> wp.int64(32)) / DEPTH_STEPS - 10.0
    return wp.where(depth < blocker, 1.0, 0.0)


@wp.kernel
def add_normals(points: wp.array(dtype=wp.vec3), faces: wp.array(dtype=int), normals: wp.array(dtype=wp.vec3)):
    """One triangle a thread: its normal, as long as twice its area, to those of its corners."""
    face = wp.tid()
    ia, ib, ic = faces[3 * face], faces[3 * face + 1], faces[3 * face + 2]
    across = wp.cross(points[ib] - points[ia], points[ic] - points[ia])
    wp.atomic_add(normals, ia, across)
    wp.atomic_add(normals, ib, across)
    wp.atomic_add(normals, ic, across)


@wp.kernel
def shade(
    nearest: wp.array(dtype=wp.int64),
    points: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    faces: wp.array(dtype=int),
    uv: wp.array(dtype=wp.vec2),
    texture: wp.array(dtype=wp.vec4, ndim=2),
    light_direction: wp.array(dtype=wp.vec3),
    light_colour: wp.array(dtype=wp.vec3),
    shadow: wp.array(dtype=wp.int64),
    to_shadow: wp.mat44,
    shadow_side: int,
    ambient: wp.vec3,
    ground: wp.vec3,
    focal: float,
    centre: wp.vec2,
    side: int,
    out: wp.array(dtype=wp.vec4),
):
    """One sample a thread: linear RGB, and cover in the fourth number. The first light casts shadows."""
    pixel = wp.tid()
    if nearest[pixel] == NOTHING:
        out[pixel] = wp.vec4(0.0, 0.0, 0.0, 0.0)
        return
    face = int(nearest[pixel] & wp.int64(0xFFFFFFFF))
    px, py = float(pixel % side) + 0.5, float(pixel / side) + 0.5
    direction = wp.normalize(wp.vec3((px - centre[0]) / focal, (py - centre[1]) / focal, 1.0))
    ia, ib, ic = faces[3 * face], faces[3 * face + 1], faces[3 * face + 2]
    a, ab, ac = points[ia], points[ib] - points[ia], points[ic] - points[ia]
    across = wp.cross(direction, ac)
    scale = 1.0 / wp.dot(ab, across)
    wb = wp.clamp(-wp.dot(a, across) * scale, 0.0, 1.0)
    wc = wp.clamp(-wp.dot(direction, wp.cross(a, ab)) * scale, 0.0, 1.0 - wb)
    wa = 1.0 - wb - wc
    point = a + ab * wb + ac * wc
    normal = wp.normalize(normals[ia]) * wa + wp.normalize(normals[ib]) * wb + wp.normalize(normals[ic]) * wc
    normal = wp.normalize(normal)
    if wp.dot(normal, direction) > 0.0:
        normal = -normal
    place = uv[3 * face] * wa + uv[3 * face + 1] * wb + uv[3 * face + 2] * wc
    surface = texel_of(texture, place[0], place[1])
    up = 0.5 - 0.5 * normal[1]
    light = ambient * up + ground * (1.0 - up)
    shine = wp.vec3(0.0, 0.0, 0.0)
    for k in range(light_direction.shape[0]):
        towards = light_direction[k]
        lit = wp.max(0.0, (wp.dot(normal, towards) + WRAP) / (1.0 + WRAP))
        if k == 0 and lit > 0.0:
            seen = wp.transform_point(to_shadow, point + normal * 0.0015)
            x, y, depth = seen[0] - 0.5, seen[1] - 0.5, seen[2] - SHADOW_BIAS
            i, j = int(wp.floor(y)), int(wp.floor(x))
            fy, fx = y - float(i), x - float(j)
            above = reached(shadow, shadow_side, j, i, depth) * (1.0 - fx)
            above += reached(shadow, shadow_side, j + 1, i, depth) * fx
            below = reached(shadow, shadow_side, j, i + 1, depth) * (1.0 - fx)
            below += reached(shadow, shadow_side, j + 1, i + 1, depth) * fx
            lit = lit * (SHADE + (1.0 - SHADE) * (above * (1.0 - fy) + below * fy))
        light = light + light_colour[k] * lit
        half = wp.normalize(towards - direction)
        gloss = wp.pow(wp.max(0.0, wp.dot(normal, half)), 12.0 + 60.0 * surface[3])
        shine = shine + light_colour[k] * (gloss * surface[3] * lit)
    colour = wp.cw_mul(wp.vec3(surface[0], surface[1], surface[2]), light) + shine
    out[pixel] = wp.vec4(colour[0], colour[1], colour[2], 1.0)


class Tracer:
    """A mesh whose vertices move. ``faces`` (F, 3) int, ``uv`` (F, 3, 2) float, ``texture`` (H, W, 4) float32."""

    def __init__(self, faces, uv, texture):
        self.triangles = faces
        self.faces = wp.array(np.ascontiguousarray(faces, np.int32).reshape(-1), dtype=int, device="cpu")
        self.uv = as_array(uv.reshape(-1, 2), wp.vec2)
        self.texture = as_array(texture, wp.vec4)

    def render(self, vertices, lights, ambient, ground, focal, centre, side, samples):
        """(side, side, 4) linear RGB, cover. ``vertices`` (V, 3) in camera space; ``lights``: [(direction to it, RGB)].

        ``focal`` and ``centre`` in pixels of the picture; ``samples``: along each edge of a pixel.
        """
        fine, focal, centre = side * samples, float(focal * samples), centre * samples
        seen = np.concatenate([vertices[:, :2] / vertices[:, 2:] * focal + centre, -1 / vertices[:, 2:]], 1)  # (V, 3)
        to_shadow = light_view(vertices, lights[0][0])
        shadowed = vertices @ to_shadow[:3, :3].T + to_shadow[:3, 3]  # (V, 3)
        out = wp.empty(fine * fine, dtype=wp.vec4, device="cpu")
        points = as_array(vertices, wp.vec3)
        normals = wp.zeros(len(vertices), dtype=wp.vec3, device="cpu")
        wp.launch(add_normals, len(self.triangles), inputs=[points, self.faces, normals], device="cpu")
        wp.launch(
            shade, fine * fine,
            inputs=[
                self._nearest(seen, fine), points, normals, self.faces, self.uv, self.texture,
                as_array([direction for direction, _ in lights], wp.vec3),
                as_array([rgb for _, rgb in lights], wp.vec3),
                self._nearest(shadowed, SHADOW_SIDE), wp.mat44(*to_shadow.ravel().tolist()), SHADOW_SIDE,
                wp.vec3(*ambient), wp.vec3(*ground), focal, wp.vec2(*centre), fine, out,
            ],
            device="cpu",
        )  # fmt: skip
        picture = out.numpy().reshape(fine, fine, 4)
        return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)  # (side, side, 4): mean of the samples

    def _nearest(self, screen, side):
        """Buffer (side * side) of the nearest triangles of vertices (V, 3): x, y in pixels, depth."""
        buffer = wp.full(side * side, NOTHING, dtype=wp.int64, device="cpu")
        wp.launch(
            rasterise, len(self.triangles), inputs=[as_array(screen, wp.vec3), self.faces, side, buffer], device="cpu"
        )
        return buffer


def as_array(values, kind):
    return wp.array(np.ascontiguousarray(values, np.float32), dtype=kind, device="cpu")


def light_view(vertices, towards):
    """(4, 4) from camera space to the shadow map: x, y in texels, depth in metres along the light."""
    forward = -np.asarray(towards, np.float32) / np.linalg.norm(towards)
    right = np.cross(forward, [0, 1, 0] if abs(forward[1]) < 0.9 else [1, 0, 0])
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(forward, right), forward])  # (3, 3)
    seen = vertices @ axes.T
    low, high = seen.min(0), seen.max(0)
    texels = (SHADOW_SIDE - 2) / (high - low)[:2].max()
    view = np.eye(4, dtype=np.float32)
    view[:3, :3] = axes
    view[:2, :3] *= texels
    view[:2, 3] = 1 - low[:2] * texels
    view[2, 3] = -(low[2] + high[2]) / 2
    return view
