"""Teaching the base model an advisor's voice: `python -m services.critic.finetune --advisor ansel --data FILE`.

The data is a file of one JSON object a line (JSONL), beside its photographs:

    {"photograph": "photographs/0001.jpg", "critique": "The horizon holds ...", "instruction": "optional"}

`photograph` is a path relative to the file; `critique` is what the advisor would write about it; `instruction` is the
wish it answers, the service's own where it is missing. Some hundreds of pairs are a beginning. A part of the
photographs (by their bytes, so that the same photograph is never on both sides) is held out: an adapter is published
only when it writes their critiques better than the base model does, and better than the adapter in use.
"""

from services.core.models import torchvision_shim

# Before any module of this package imports peft, whichever is imported first.
torchvision_shim.install()
