"""The ``warp`` kernels of world.renderer.rasterizer: ribbons of hair, z-buffers and shading.

Camera space: x to the image's right, y down, z away from the camera; lengths in metres.
"""

import warp as wp

wp.set_module_options({"enable_backward": False})  # no gradients are needed; halves the compile time
SKIN_WRAP = wp.constant(wp.vec3(0.40, 0.24, 0.17))  # subsurface scattering beyond the terminator
HAIR_WRAP = wp.constant(0.7)
SHADOW_BIAS, HAIR_BIAS = wp.constant(0.002), wp.constant(0.006)  # metres, against self-shadowing
SHADE, HAIR_SHADE = wp.constant(0.10), wp.constant(0.30)  # fraction of the key light in its shadow
NOTHING = wp.constant(wp.int64(2**62))  # entry of a z-buffer without a triangle
DEPTH_STEPS = wp.constant(1.0e8)  # steps per unit of depth in the upper half of an entry


@wp.func
def crossing(p: wp.vec3, q: wp.vec3, y: float) -> wp.vec2:
    """The x at which the edge from p to q crosses the row at y, as both minimum and maximum; empty if it does not."""
    if (p[1] <= y) == (q[1] <= y):
        return wp.vec2(1.0e6, -1.0e6)
    x = p[0] + (y - p[1]) / (q[1] - p[1]) * (q[0] - p[0])
    return wp.vec2(x, x)


@wp.kernel
def rasterize(
    screen: wp.array(dtype=wp.vec3), faces: wp.array(dtype=int), side: int, nearest: wp.array(dtype=wp.int64)
) -> None:
    """Write the nearest triangle of each pixel to a z-buffer, as depth << 32 | triangle; one thread per triangle.

    ``screen``: x and y in pixels, and a depth in -10..10 that is linear on the screen and smaller when nearer.
    """
    face = wp.tid()
    a, b, c = screen[faces[3 * face]], screen[faces[3 * face + 1]], screen[faces[3 * face + 2]]
    area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
    if wp.abs(area) < 1.0e-9:
        return
    across = ((b[2] - a[2]) * (c[1] - a[1]) - (c[2] - a[2]) * (b[1] - a[1])) / area  # change of depth per column, row
    down = ((c[2] - a[2]) * (b[0] - a[0]) - (b[2] - a[2]) * (c[0] - a[0])) / area
    top = wp.max(0, int(wp.ceil(wp.min(wp.min(a[1], b[1]), c[1]) - 0.5)))
    bottom = wp.min(side - 1, int(wp.floor(wp.max(wp.max(a[1], b[1]), c[1]) - 0.5)))
    for row in range(top, bottom + 1):
        y = float(row) + 0.5
        ab, bc, ca = crossing(a, b, y), crossing(b, c, y), crossing(c, a, y)
        left = wp.max(0, int(wp.ceil(wp.min(wp.min(ab[0], bc[0]), ca[0]) - 0.5)))
        right = wp.min(side - 1, int(wp.floor(wp.max(wp.max(ab[1], bc[1]), ca[1]) - 0.5)))
        for column in range(left, right + 1):
            depth = a[2] + (float(column) + 0.5 - a[0]) * across + (y - a[1]) * down
            entry = (wp.int64((depth + 10.0) * DEPTH_STEPS) << wp.int64(32)) | wp.int64(face)
            if entry < nearest[row * side + column]:  # avoids most of the slower atomic_min
                wp.atomic_min(nearest, row * side + column, entry)


@wp.kernel
def spread(
    middle: wp.array(dtype=wp.vec3),
    tangents: wp.array(dtype=wp.vec3),
    facing: wp.array(dtype=wp.vec3),
    shape: wp.array(dtype=wp.vec2),
    turn: wp.mat33,
    first: int,
    points: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    along: wp.array(dtype=wp.vec4),
) -> None:
    """Compute both edges of the ribbons, which face the camera; one thread per point of a strand.

    ``middle``: points in camera space. ``shape``: half width and openness of each point. ``first``: index of the first
    ribbon vertex in ``points``, ``normals`` and ``along`` (tangent and openness).
    """
    i = wp.tid()
    tangent = turn * tangents[i]
    aside = wp.normalize(wp.cross(tangent, middle[i])) * shape[i][0]
    normal = turn * facing[i]
    for edge in range(2):
        k = first + i + edge * middle.shape[0]
        points[k] = middle[i] + aside * (2.0 * float(edge) - 1.0)
        normals[k] = normal
        along[k] = wp.vec4(tangent[0], tangent[1], tangent[2], shape[i][1])


@wp.kernel
def project(points: wp.array(dtype=wp.vec3), focal: float, centre: wp.vec2, screen: wp.array(dtype=wp.vec3)) -> None:
    """Project points in camera space to pixels and a depth that is linear on the screen, -1 / z."""
    i = wp.tid()
    near = 1.0 / points[i][2]
    screen[i] = wp.vec3(points[i][0] * near * focal + centre[0], points[i][1] * near * focal + centre[1], -near)


@wp.kernel
def transform(points: wp.array(dtype=wp.vec3), view: wp.mat44, screen: wp.array(dtype=wp.vec3)) -> None:
    """Apply an affine transform to points."""
    i = wp.tid()
    screen[i] = wp.transform_point(view, points[i])


@wp.func
def texel_of(texture: wp.array(dtype=wp.vec4, ndim=2), u: float, v: float) -> wp.vec4:
    """The texture at (u, v), interpolated bilinearly: linear RGB and gloss."""
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
    """1 if a depth in a texel of the shadow map is lit, 0 if it is in shadow."""
    if column < 0 or row < 0 or column >= side or row >= side:
        return 1.0
    blocker = float(shadow[row * side + column] >> wp.int64(32)) / DEPTH_STEPS - 10.0
    return wp.where(depth < blocker, 1.0, 0.0)


@wp.kernel
def add_normals(points: wp.array(dtype=wp.vec3), faces: wp.array(dtype=int), normals: wp.array(dtype=wp.vec3)) -> None:
    """Add the normal of each triangle, weighted by area, to those of its corners; one thread per triangle."""
    face = wp.tid()
    ia, ib, ic = faces[3 * face], faces[3 * face + 1], faces[3 * face + 2]
    across = wp.cross(points[ib] - points[ia], points[ic] - points[ia])
    wp.atomic_add(normals, ia, across)
    wp.atomic_add(normals, ib, across)
    wp.atomic_add(normals, ic, across)


@wp.func
def lit_by_first(
    shadow: wp.array(dtype=wp.int64), side: int, to_shadow: wp.mat44, point: wp.vec3, offset: wp.vec2, bias: float
) -> float:
    """The fraction of the key light that reaches a point, interpolated bilinearly in the shadow map."""
    seen = wp.transform_point(to_shadow, point)
    x, y, depth = seen[0] - 0.5 + offset[0], seen[1] - 0.5 + offset[1], seen[2] - bias
    i, j = int(wp.floor(y)), int(wp.floor(x))
    fy, fx = y - float(i), x - float(j)
    above = reached(shadow, side, j, i, depth) * (1.0 - fx) + reached(shadow, side, j + 1, i, depth) * fx
    below = reached(shadow, side, j, i + 1, depth) * (1.0 - fx) + reached(shadow, side, j + 1, i + 1, depth) * fx
    return above * (1.0 - fy) + below * fy


@wp.kernel
def shade(
    nearest: wp.array(dtype=wp.int64),
    points: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    along: wp.array(dtype=wp.vec4),
    faces: wp.array(dtype=int),
    uv: wp.array(dtype=wp.vec2),
    texture: wp.array(dtype=wp.vec4, ndim=2),
    light_direction: wp.array(dtype=wp.vec3),
    light_colour: wp.array(dtype=wp.vec3),
    shadow: wp.array(dtype=wp.int64),
    to_shadow: wp.mat44,
    shadow_side: int,
    softness: float,
    ambient: wp.vec3,
    ground: wp.vec3,
    focal: float,
    centre: wp.vec2,
    side: int,
    out: wp.array(dtype=wp.vec4),
) -> None:
    """Shade each sample, as linear RGB and coverage; one thread per sample. Only the first (key) light casts shadows.

    The colour is albedo * (ambient + sum of diffuse lights) + highlights, Blinn-Phong on skin and Kajiya-Kay on hair.
    """
    pixel = wp.tid()
    if nearest[pixel] == NOTHING:
        out[pixel] = wp.vec4(0.0, 0.0, 0.0, 0.0)
        return
    face = int(nearest[pixel] & wp.int64(0xFFFFFFFF))
    column, row = pixel % side, pixel / side
    direction = wp.normalize(
        wp.vec3((float(column) + 0.5 - centre[0]) / focal, (float(row) + 0.5 - centre[1]) / focal, 1.0)
    )
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
    strand = along[ia] * wa + along[ib] * wb + along[ic] * wc
    tangent = wp.vec3(strand[0], strand[1], strand[2])
    hair = wp.length(tangent) > 0.5
    if wp.dot(normal, direction) > 0.0 and not hair:
        normal = -normal
    texel = uv[3 * face] * wa + uv[3 * face + 1] * wb + uv[3 * face + 2] * wc
    surface = texel_of(texture, texel[0], texel[1])
    colour = wp.vec3(surface[0], surface[1], surface[2])
    up = 0.5 - 0.5 * normal[1]
    light = (ambient * up + ground * (1.0 - up)) * strand[3]
    shine = wp.vec3(0.0, 0.0, 0.0)
    facing = wp.max(0.0, -wp.dot(normal, direction))
    grazing = 1.0 + 3.0 * wp.pow(1.0 - facing, 4.0)  # Fresnel effect
    offset = softness * wp.vec2(float(column % 2) - 0.5, float(row % 2) - 0.5)  # the samples of a pixel are spread out
    for k in range(light_direction.shape[0]):
        towards = light_direction[k]
        half = wp.normalize(towards - direction)
        lambert = wp.dot(normal, towards)
        seen = 1.0
        if hair:
            if k == 0:
                seen = lit_by_first(shadow, shadow_side, to_shadow, point, offset, HAIR_BIAS)
                seen = HAIR_SHADE + (1.0 - HAIR_SHADE) * seen
            tangent = wp.normalize(tangent)
            aside = wp.dot(tangent, towards)
            lit = wp.sqrt(wp.max(0.0, 1.0 - aside * aside)) * wp.max(0.0, (lambert + HAIR_WRAP) / (1.0 + HAIR_WRAP))
            light = light + light_colour[k] * (lit * seen * strand[3])
            leaning = wp.dot(tangent, half)
            gloss = wp.pow(wp.sqrt(wp.max(0.0, 1.0 - leaning * leaning)), 50.0) * wp.max(0.0, lambert + 0.3)
            shine = shine + wp.cw_mul(light_colour[k], colour * 0.8 + wp.vec3(0.03, 0.03, 0.03)) * (
                gloss * seen * strand[3] * surface[3]
            )
        else:
            if k == 0 and lambert > -0.4:
                seen = lit_by_first(shadow, shadow_side, to_shadow, point + normal * 0.0015, offset, SHADOW_BIAS)
                seen = SHADE + (1.0 - SHADE) * seen
            through = wp.vec3(
                wp.max(0.0, lambert + SKIN_WRAP[0]) / (1.0 + SKIN_WRAP[0]),
                wp.max(0.0, lambert + SKIN_WRAP[1]) / (1.0 + SKIN_WRAP[1]),
                wp.max(0.0, lambert + SKIN_WRAP[2]) / (1.0 + SKIN_WRAP[2]),
            )
            light = light + wp.cw_mul(light_colour[k], through) * seen
            gloss = wp.pow(wp.max(0.0, wp.dot(normal, half)), 12.0 + 100.0 * surface[3] * surface[3])
            shine = shine + light_colour[k] * (gloss * wp.min(surface[3], 0.6) * grazing * wp.max(0.0, lambert) * seen)
    colour = wp.cw_mul(colour, light) + shine
    out[pixel] = wp.vec4(colour[0], colour[1], colour[2], 1.0)


@wp.kernel
def measure_openness(
    mesh: wp.uint64,
    points: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    rays: wp.array(dtype=wp.vec3),
    out: wp.array(dtype=float),
) -> None:
    """The cosine-weighted fraction of rays above a vertex that hit nothing within 12 cm; one thread per vertex."""
    vertex = wp.tid()
    normal = wp.normalize(normals[vertex])
    start = points[vertex] + normal * 0.0008
    total, free = wp.float32(0.0), wp.float32(0.0)
    for k in range(rays.shape[0]):
        weight = wp.dot(rays[k], normal)
        if weight > 0.0:
            total += weight
            hit = wp.mesh_query_ray(mesh, start, rays[k], 0.12)
            if not hit.result:
                free += weight
    out[vertex] = free / wp.max(total, 1.0e-6)
