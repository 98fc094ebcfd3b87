"""Ray casting on one CPU core with ``warp``: a mesh with a texture under a few lights -> linear RGB.

Camera space: x to the image's right, y down, z away from the camera; lengths in metres.
"""

import numpy as np
import warp as wp

wp.config.quiet = True
LIGHTS = 3  # of a scene; the first one casts shadows
WRAP = 0.25  # light that seeps round the edge of the lit side, as through skin


@wp.func
def sample(texture: wp.array(dtype=wp.vec4, ndim=2), u: float, v: float) -> wp.vec4:
    """Bilinear; the fourth channel is how glossy the surface is."""
    height, width = float(texture.shape[0]), float(texture.shape[1])
    x = wp.clamp(u * width - 0.5, 0.0, width - 1.001)
    y = wp.clamp(v * height - 0.5, 0.0, height - 1.001)
    i, j = int(y), int(x)
    fy, fx = y - float(i), x - float(j)
    top = texture[i, j] * (1.0 - fx) + texture[i, j + 1] * fx
    low = texture[i + 1, j] * (1.0 - fx) + texture[i + 1, j + 1] * fx
    return top * (1.0 - fy) + low * fy


@wp.kernel
def cast(
    mesh: wp.uint64,
    normals: wp.array(dtype=wp.vec3),
    faces: wp.array(dtype=int),
    uv: wp.array(dtype=wp.vec2),
    texture: wp.array(dtype=wp.vec4, ndim=2),
    light_direction: wp.array(dtype=wp.vec3),
    light_colour: wp.array(dtype=wp.vec3),
    ambient: wp.vec3,
    ground: wp.vec3,
    focal: float,
    centre: wp.vec2,
    side: int,
    scale: float,
    out: wp.array(dtype=wp.vec4),
):
    """One ray a thread, through ``side`` x ``side`` samples of the picture; the fourth number of ``out`` is cover."""
    ray = wp.tid()
    px = (float(ray % side) + 0.5) / scale
    py = (float(ray // side) + 0.5) / scale
    origin = wp.vec3(0.0, 0.0, 0.0)
    direction = wp.normalize(wp.vec3((px - centre[0]) / focal, (py - centre[1]) / focal, 1.0))
    hit = wp.mesh_query_ray(mesh, origin, direction, 10.0)
    if not hit.result:
        out[ray] = wp.vec4(0.0, 0.0, 0.0, 0.0)
        return
    a, b, c = 3 * hit.face, 3 * hit.face + 1, 3 * hit.face + 2
    wa, wb, wc = hit.u, hit.v, 1.0 - hit.u - hit.v
    normal = wp.normalize(normals[faces[a]] * wa + normals[faces[b]] * wb + normals[faces[c]] * wc)
    if wp.dot(normal, direction) > 0.0:
        normal = -normal
    place = uv[a] * wa + uv[b] * wb + uv[c] * wc
    surface = sample(texture, place[0], place[1])
    albedo = wp.vec3(surface[0], surface[1], surface[2])
    point = origin + direction * hit.t
    up = 0.5 - 0.5 * normal[1]
    light = ambient * up + ground * (1.0 - up)
    shine = wp.vec3(0.0, 0.0, 0.0)
    for k in range(light_direction.shape[0]):
        towards = light_direction[k]
        cosine = wp.dot(normal, towards)
        lit = wp.max(0.0, (cosine + WRAP) / (1.0 + WRAP))
        if k == 0 and cosine > -WRAP:
            shadow = wp.mesh_query_ray(mesh, point + normal * 0.0015, towards, 1.0)
            if shadow.result:
                lit = lit * 0.12
        light = light + light_colour[k] * lit
        half = wp.normalize(towards - direction)
        gloss = wp.pow(wp.max(0.0, wp.dot(normal, half)), 12.0 + 60.0 * surface[3])
        shine = shine + light_colour[k] * (gloss * surface[3] * lit)
    colour = wp.cw_mul(albedo, light) + shine
    out[ray] = wp.vec4(colour[0], colour[1], colour[2], 1.0)


class Tracer:
    """A mesh whose vertices move. ``faces`` (F, 3) int, ``uv`` (F, 3, 2) float, ``texture`` (H, W, 4) float32."""

    def __init__(self, vertices, faces, uv, texture):
        self.triangles = faces
        self.points = wp.array(np.ascontiguousarray(vertices, np.float32), dtype=wp.vec3, device="cpu")
        self.faces = wp.array(np.ascontiguousarray(faces, np.int32).reshape(-1), dtype=int, device="cpu")
        self.uv = wp.array(np.ascontiguousarray(uv, np.float32).reshape(-1, 2), dtype=wp.vec2, device="cpu")
        self.texture = wp.array(np.ascontiguousarray(texture, np.float32), dtype=wp.vec4, device="cpu")
        self.mesh = wp.Mesh(points=self.points, indices=self.faces)

    def render(self, vertices, lights, ambient, ground, focal, centre, side, samples):
        """(side, side, 4) linear RGB, cover. ``vertices`` (V, 3) in camera space; ``lights``: [(direction to it, RGB)].

        ``focal`` and ``centre`` in pixels of the picture; ``samples``: rays along each edge of a pixel.
        """
        self.points.assign(np.ascontiguousarray(vertices, np.float32))
        self.mesh.refit()
        normals = wp.array(vertex_normals(vertices, self.triangles), dtype=wp.vec3, device="cpu")
        directions = wp.array(np.float32([direction for direction, _ in lights]), dtype=wp.vec3, device="cpu")
        colours = wp.array(np.float32([colour for _, colour in lights]), dtype=wp.vec3, device="cpu")
        fine = side * samples
        out = wp.zeros(fine * fine, dtype=wp.vec4, device="cpu")
        wp.launch(
            cast, fine * fine,
            inputs=[
                self.mesh.id, normals, self.faces, self.uv, self.texture, directions, colours, wp.vec3(*ambient),
                wp.vec3(*ground), float(focal), wp.vec2(*centre), fine, float(samples), out,
            ],
            device="cpu",
        )  # fmt: skip
        picture = out.numpy().reshape(side, samples, side, samples, 4)
        return picture.mean((1, 3))


def vertex_normals(vertices, faces):
    """(V, 3) unit normals, faces weighted by their area."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    across = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices, dtype=np.float32)
    for axis in range(3):
        for corner in range(3):
            normals[:, axis] += np.bincount(faces[:, corner], across[:, axis], minlength=len(vertices))
    return (normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)).astype(np.float32)
