"""Let torchvision import beside a torch without its operators.

torchvision's published wheel is built for CUDA. Beside a CPU-only torch its operator library does not load, and
`import torchvision` (which open_clip and timm do) ends with "operator torchvision::nms does not exist", because it
registers fake kernels for two operators that nobody declared. Declaring their schemas first is enough; no service
calls them.
"""

import importlib.util

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[object] = []  # a torch Library takes its declarations back when it is collected


def install() -> None:
    """Declares the missing schemas, so that `import torchvision` works; does nothing where they exist.

    Call it before importing open_clip, timm or torchvision. Idempotent.
    """
    if _declared or importlib.util.find_spec("torchvision") is None:
        return
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return
    library = torch.library.Library("torchvision", "DEF")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _declared.append(library)
