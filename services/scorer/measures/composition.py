"""composition: where the subject and the lines stand in the frame.

Inputs: the subject map and levelled Lab (64 px), and the lines (L* at 256 px). Distances are in shares of the frame's
width or height, so the formula does not depend on the format.

- edges: log ratio of the change of L* along the four edges of the frame (the outer two cells of 64 px) to the
  gradient of the whole. Quiet edges hold the eye inside; an edge that cuts through things is busy.
- placement: exp(-(d/0.13)^2) of the subject's centre to the nearest crossing of third lines, or 0.8 of the same for the
  nearest third line or the middle: a subject on a power point, on a third, or deliberately central is well placed.
- reach: how much further than 0.12 the subject's centre lies from the middle.
- crowding: the subject's share in the outer 7% of the frame, beyond 5%; touching: the mean of the subject map along
  the edge where it is highest. Both are high for a subject that is cut off.
- lines: levelness of what is nearly level or upright, and slanting lines that lead to one place.

What is said of the subject is gated by its concentration, or edge-to-edge landscapes would be punished for having no
single subject. A plain white or black ground makes every edge quiet, and lowers the confidence. The rule of thirds
follows Liu, Chen, Wolf and Cohen-Or (2010), "Optimizing Photo Composition".
The weights were set by hand on crops that cut through the middle of photographs of the fitting set.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from services.scorer.measures import filters
from services.scorer.measures.planes import grid
from services.scorer.measures.scene import Measured, Scene, weighted

UNITS = {
    "subject_x": "share of the width",
    "subject_y": "share of the height",
    "power_point_distance": "share of the frame",
    "third_line_distance": "share of the frame",
    "centre_distance": "share of the frame",
    "edge_share": "share of the subject",
    "edge_activity": "log ratio",
    "plain_ground": "share of the frame's edge",
    "touching": "",
    "concentration": "",
    "tilt": "degrees",
    "line_presence": "",
    "levelness": "",
    "convergence": "",
}

WEIGHTS = {
    "edges": 1.0,
    "placement": 0.7,
    "reach": 2.0,
    "crowding": 1.3,
    "touching": 0.5,
    "concentration": 0.2,
    "level": 0.9,
    "convergence": 0.15,
}

_OUTER = 0.07


def measure(scene: Scene) -> Measured:
    """Returns the composition of each picture."""
    subject, lines = scene.subject, scene.lines
    x, y = subject.x, subject.y
    to_third_x = torch.minimum((x - 1 / 3).abs(), (x - 2 / 3).abs())
    to_third_y = torch.minimum((y - 1 / 3).abs(), (y - 2 / 3).abs())
    power = torch.hypot(to_third_x, to_third_y)
    third = torch.minimum(to_third_x, to_third_y)
    centre = torch.hypot(x - 0.5, y - 0.5)
    placement = torch.maximum(_near(power), 0.8 * torch.maximum(_near(third), _near(centre)))
    edge_share, touching = _edge_share(subject.map), _touching(subject.map)
    activity = _edge_activity(scene.planes.levelled[:, 0])
    gate = subject.concentration
    crowding = filters.saturate((edge_share - 0.05).clamp_min(0), 0.25)
    level = lines.levelness.clamp(-1.5, 1.5) * (0.4 + 0.6 * lines.presence)
    terms = {
        "edges": -activity,
        "placement": gate * placement,
        "reach": -gate * (centre - 0.12).clamp_min(0),
        "crowding": -(0.3 + 0.7 * gate) * crowding,
        "touching": -touching,
        "concentration": gate,
        "level": level,
        "convergence": filters.saturate(lines.convergence, 0.15),
    }
    values = {
        "subject_x": x,
        "subject_y": y,
        "power_point_distance": power,
        "third_line_distance": third,
        "centre_distance": centre,
        "edge_share": edge_share,
        "edge_activity": activity,
        "plain_ground": scene.plain_ground,
        "touching": touching,
        "concentration": gate,
        "tilt": lines.tilt,
        "line_presence": lines.presence,
        "levelness": lines.levelness,
        "convergence": lines.convergence,
    }
    strength = (0.4 + 0.6 * torch.maximum(gate, lines.presence)) * filters.ramp(scene.detail, 0.0, 0.1)
    return Measured(weighted(terms, WEIGHTS), strength * scene.doubt, values, terms)


def _near(distance: Tensor) -> Tensor:
    return torch.exp(-((distance / 0.13) ** 2))


def _edge_share(mask: Tensor) -> Tensor:
    """Share [B] of the subject that lies in the outer 7% of the frame."""
    rows, columns = mask.shape[-2:]
    x, y = grid(rows, columns, mask.device)
    outer = (torch.minimum(x, 1 - x) < _OUTER) | (torch.minimum(y, 1 - y) < _OUTER)
    return (mask * outer).sum(dim=(-2, -1)) / mask.sum(dim=(-2, -1)).clamp_min(1e-3)


def _sides(x: Tensor) -> list[Tensor]:
    """The outer two cells along the four edges, averaged across: [..., length] each."""
    return [x[..., :2].mean(-1), x[..., -2:].mean(-1), x[..., :2, :].mean(-2), x[..., -2:, :].mean(-2)]


def _edge_activity(lightness: Tensor) -> Tensor:
    """Log ratio [B] of the change of L* along the edges of the frame to the gradient of the whole."""
    along = [(side[..., 1:] - side[..., :-1]).abs().mean(-1) for side in _sides(lightness)]
    whole = torch.hypot(*filters.gradient(lightness)).mean(dim=(-2, -1))
    return ((torch.stack(along, 1).mean(1) + 0.5) / (whole + 0.5)).log()


def _touching(mask: Tensor) -> Tensor:
    """The mean of the subject map [B] along the edge where it is highest."""
    return torch.stack([side.mean(-1) for side in _sides(mask)], 1).amax(1)


def evidence(values: Mapping[str, float]) -> list[str]:
    """Returns sentences on the composition, the most telling first.

    The place is that of what stands out by tone and colour: whether that is the subject, a person sees. How level the
    lines are is said under visual_balance. Of lines that meet nothing is said: most such claims were false to the eye.
    """
    if values["concentration"] < 0.25:
        found = ["No single area stands out by tone and colour: the subject may fill the frame, be many, or be none."]
    else:
        found = [f"What stands out most by tone and colour {_place(values)}."]
        if values["edge_share"] > 0.2:
            found.append(f"{values['edge_share']:.0%} of it lies along the edge of the frame.")
    if values["edge_activity"] > 0.35:
        found.append("The edges of the frame cut through things: they are busier than the picture itself.")
    elif values["plain_ground"] > 0.75:
        found.append("The edges of the frame are quiet because the ground is plain: trust this score little.")
    elif values["edge_activity"] < -1:
        found.append("The edges of the frame are quiet.")
    return found


def _place(values: Mapping[str, float]) -> str:
    x, y = values["subject_x"], values["subject_y"]
    if values["power_point_distance"] < 0.1:
        corner = f"{'upper' if y < 0.5 else 'lower'} {'left' if x < 0.5 else 'right'}"
        return f"lies near the {corner} crossing of the thirds"
    if values["centre_distance"] < 0.08:
        return "lies in the middle of the frame"
    if values["third_line_distance"] < 0.06:
        vertical = abs(abs(x - 0.5) - 1 / 6) < abs(abs(y - 0.5) - 1 / 6)
        side = ("left" if x < 0.5 else "right") if vertical else ("upper" if y < 0.5 else "lower")
        return f"has its centre on the {side} third"
    return f"has its centre at {x:.0%} of the width and {y:.0%} of the height"


def advice(values: Mapping[str, float]) -> str:
    """Returns what to try for a better composition."""
    if values["concentration"] >= 0.25 and values["edge_share"] > 0.2:
        return "If the edge cuts the subject, step back or reframe: give it room."
    if values["edge_activity"] > 0.35:
        return "Run the eye round the edges before releasing, and move until they cross as little as possible."
    if values["concentration"] < 0.25:
        return "Decide what matters most and set it apart: more room round it, or plainer surroundings."
    placed = values["power_point_distance"] < 0.1 or values["third_line_distance"] < 0.06
    if placed or values["centre_distance"] < 0.08:
        return (
            "If what stands out is the subject, it is placed well: let the rest lead to it, and keep the edges quiet."
        )
    return "Move the subject's centre onto a third, or deliberately to the middle."
