"""Photographs of a textured mesh with hair on one CPU core, with ``warp``: z-buffer, shadow map, light of each sample.

Camera space: x to the image's right, y down, z away from the camera; lengths in metres.
"""

import cv2
import numpy as np
import warp as wp

from world.renderer.kernels import NOTHING, add_normals, look_round, project, rasterize, shade, spread, transform

wp.config.quiet = True
SHADOW_SIDE = 256  # texels of the shadow map, which spans the head
RAYS = 96  # by which a vertex looks round


def openness(vertices, faces):
    """(V,) 0..1: how much of its surroundings each vertex of a mesh sees; little in sockets, nostrils and creases."""
    points, corners = as_array(vertices, wp.vec3), as_array(faces.reshape(-1), int)
    normals, out = wp.zeros(len(vertices), dtype=wp.vec3, device="cpu"), empty(len(vertices), float)
    launch(add_normals, len(faces), points, corners, normals)
    k = np.arange(RAYS) + 0.5
    height, turn = 1 - 2 * k / RAYS, np.pi * (1 + 5**0.5) * k  # evenly over the sphere
    rays = np.stack([np.cos(turn) * np.sqrt(1 - height**2), np.sin(turn) * np.sqrt(1 - height**2), height], -1)
    mesh = wp.Mesh(points, corners)  # lives as long as its name does
    launch(look_round, len(vertices), mesh.id, points, normals, as_array(rays, wp.vec3), out)
    return out.numpy().copy()


class Rasterizer:
    """A mesh whose vertices move: ``surface`` (S) vertices with triangles, and H points of strands with ribbons.

    Its vertices: those of the surface, one edge of all ribbons, the other edge. ``faces`` (F, 3) of these, the first
    ``solid`` of the surface; ``uv`` (F, 3, 2); ``texture`` (H, W, 4) float32: RGB and how glossy it is. ``openness``
    (S,): what share of its surroundings a vertex sees. Of the strands: ``tangents``, ``normals`` (H, 3), and ``shape``
    (H, 2), half width and openness.
    """

    def __init__(self, faces, solid, uv, texture, openness, tangents, normals, shape):
        self.count, self.solid, self.surface = len(faces), solid, len(openness)
        self.faces, self.uv = as_array(faces.reshape(-1), int), as_array(uv.reshape(-1, 2), wp.vec2)
        # Every third ribbon is enough for the shadow map.
        self.shadow_faces = as_array(np.concatenate([faces[:solid], faces[solid::3]]).reshape(-1), int)
        self.texture = as_array(texture, wp.vec4)
        self.tangents, self.facing, self.shape = (
            as_array(values, kind) for values, kind in ((tangents, wp.vec3), (normals, wp.vec3), (shape, wp.vec2))
        )
        total = len(openness) + 2 * len(tangents)
        self.points, self.normals, self.screen = (empty(total, wp.vec3) for _ in range(3))
        self.along = as_array(np.pad(openness[:, None], ((0, total - len(openness)), (3, 0))), wp.vec4)
        self.shadow = empty(SHADOW_SIDE**2, wp.int64)

    def colour(self, rows, columns, rgb):
        """Give a block of the texture another colour."""
        self.texture.numpy()[rows, columns, :3] = rgb  # on the CPU warp and numpy share the memory

    def render(self, vertices, turn, shown, scene, focal, centre, side, samples):
        """(side, side, 4) linear RGB, cover.

        ``vertices`` (S + H, 3): surface and points of strands in camera space, to which ``turn`` (3, 3) turns them.
        ``shown``: the part of the vertices that the shadow map must span. ``scene``: a ``scene.Light``. ``focal`` and
        ``centre`` in pixels of the picture; ``samples``: along each edge of a pixel.
        """
        fine, focal, centre = side * samples, float(focal * samples), wp.vec2(*(centre * samples))
        self.points.numpy()[: self.surface] = vertices[: self.surface]
        self.normals.numpy()[: self.surface] = 0
        middle = as_array(vertices[self.surface :], wp.vec3)
        launch(
            spread, len(middle), middle, self.tangents, self.facing, self.shape, wp.mat33(*turn.ravel().tolist()),
            self.surface, self.points, self.normals, self.along,
        )  # fmt: skip
        launch(add_normals, self.solid, self.points, self.faces, self.normals)
        launch(project, len(self.points), self.points, focal, centre, self.screen)
        nearest = empty(fine * fine, wp.int64)
        nearest.fill_(NOTHING)
        launch(rasterize, self.count, self.screen, self.faces, fine, nearest)
        view = light_view(vertices[shown], scene.directions[0])
        to_shadow = wp.mat44(*view.ravel().tolist())
        launch(transform, len(self.points), self.points, to_shadow, self.screen)
        self.shadow.fill_(NOTHING)
        launch(rasterize, self.shadow_faces.size // 3, self.screen, self.shadow_faces, SHADOW_SIDE, self.shadow)
        out = empty(fine * fine, wp.vec4)
        softness = float(scene.softness * np.linalg.norm(view[0, :3]))  # in texels of the shadow map
        launch(
            shade, fine * fine, nearest, self.points, self.normals, self.along, self.faces, self.uv, self.texture,
            as_array(scene.directions, wp.vec3), as_array(scene.colours, wp.vec3), self.shadow, to_shadow, SHADOW_SIDE,
            softness, wp.vec3(*scene.ambient), wp.vec3(*scene.ground), focal, centre, fine, out,
        )  # fmt: skip
        picture = out.numpy().reshape(fine, fine, 4)
        return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)  # (side, side, 4): mean of the samples


def launch(kernel, count, *inputs):
    wp.launch(kernel, count, inputs=inputs, device="cpu")


def empty(count, kind):
    return wp.empty(count, dtype=kind, device="cpu")


def as_array(values, kind):
    dtype = np.int32 if kind is int else np.float32
    return wp.array(np.ascontiguousarray(values, dtype), dtype=kind, device="cpu")


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
