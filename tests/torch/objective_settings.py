"""Small settings for objectives: a network of each kind that an objective may be made for."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from paperlab.kit.encoder_decoder import EncoderDecoder
from paperlab.kit.nested import Nested
from paperlab.kit.training import Split
from paperlab.tasks import caption, lm_nested
from paperlab.tasks.asr import Recogniser, frames_of, log_mel
from paperlab.tasks.asr import Setting as Speech
from paperlab.tasks.image import Convolutional
from paperlab.tasks.image import Setting as Image
from paperlab.tasks.image_multitask import Setting as Multitask
from paperlab.tasks.image_multitask import Slimmable
from paperlab.tasks.image_segmentation import Layered, scenes
from paperlab.tasks.image_segmentation import Setting as Segmentation
from paperlab.tasks.synthetic import Recurrent, examples
from paperlab.tasks.synthetic import Setting as Synthetic


def convolutional() -> Image:
    """Images of 8 x 8 pixels in three classes, a student, a wider teacher with features as wide; two steps."""
    draw = torch.Generator().manual_seed(0)
    split = Split((torch.randn(24, 1, 8, 8, generator=draw),), torch.arange(24) % 3)
    torch.manual_seed(0)
    student, teacher = Convolutional((3, 4, 6), 3).eval(), Convolutional((5, 5, 6), 3).eval().requires_grad_(False)
    return Image(student, teacher, split, split, split, 3, 2, {}, rates=(1e-2,), batch=8)


def recurrent() -> Synthetic:
    """Parity of four numbers; two steps."""
    x, parity = examples(16, 4, torch.Generator().manual_seed(0))
    split = Split((x,), parity)
    torch.manual_seed(0)
    return Synthetic(Recurrent(4, 6, 2).eval(), split, split, 2, length=4, batch=8, rates=(1e-2,))


def slimmable() -> Multitask:
    """Images of 8 x 8 pixels with two labels each, a network of two stages and two heads; two steps."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.stack((torch.arange(24) % 3, torch.arange(24) % 4), 1)
    split = Split((torch.randn(24, 1, 8, 8, generator=draw),), labels)
    torch.manual_seed(0)
    return Multitask(Slimmable((8, 16), 8, (3, 4)).eval(), split, split, split, 2, {}, rates=(1e-2,), batch=8)


def layered() -> Segmentation:
    """Digits of 10 x 10 random pixels, scenes of them, an encoder of three layers; two steps."""
    draw = torch.Generator().manual_seed(0)
    digits = Split((torch.rand(6, 10, 10, generator=draw),), torch.arange(6))
    images, labels, strength = scenes(digits, 24, draw)
    split = Split((images,), labels)
    torch.manual_seed(0)
    return Segmentation(Layered(3, 8).eval(), digits, split, split, split, strength, 2, rates=(1e-2,), batch=8)


def captioning() -> caption.Setting:
    """Digits of 9 x 9 random pixels, captions of their scenes and statements, three layers of each half; two steps."""
    draw = torch.Generator().manual_seed(0)
    digits = Split((torch.rand(6, 9, 9, generator=draw),), torch.arange(6))
    judged = caption.draw_items(digits, 12, 12, draw)
    torch.manual_seed(0)
    network = EncoderDecoder(len(caption.WORDS), 16, 2, 3, side=20, patch=5, time=caption.LENGTH).eval()
    return caption.Setting(network, digits, judged, judged, 2, rates=(1e-2,), batch=8)


def nested() -> lm_nested.Setting:
    """A decoder of two blocks on bytes that count up and down; two steps."""
    stream = torch.arange(600) % 30 + torch.arange(600) // 60
    rows = stream[: 8 * (lm_nested.LENGTH + 1)].view(8, -1)
    torch.manual_seed(0)
    model = Nested(lm_nested.VOCABULARY, 16, 2, 2, 16, 2 * lm_nested.LENGTH).eval()
    train = lm_nested.Stream(stream, 16)
    return lm_nested.Setting(model, train, rows, rows, 2, {}, batch=4, rates=(1e-2,))


def recogniser() -> Speech:
    """Half a second of random sound with one to three of four words, a recogniser of six blocks; two steps."""
    draw = torch.Generator().manual_seed(0)
    waves, labels = torch.randn(24, 4_000, generator=draw), torch.randint(1, 5, (24, 3), generator=draw)
    labels[torch.arange(24) % 2 == 0, 2:] = 0
    labels[torch.arange(24) % 4 == 0, 1:] = 0
    judged = Split((log_mel(waves), frames_of(waves)), labels)
    torch.manual_seed(0)
    network = Recogniser(6, 8, 5).eval()
    return Speech(network, Split((waves,), labels), judged, judged, 2, rates=(1e-2,), batch=8)


SETTINGS: dict[str, Callable[[], Any]] = {
    "convolutional": convolutional,
    "recurrent": recurrent,
    "slimmable": slimmable,
    "layered": layered,
    "captioning": captioning,
    "nested": nested,
    "recogniser": recogniser,
}


def names(setting: Any) -> dict[str, Any]:
    """What the printed lines of an objective take for given."""
    inputs, labels = next(setting.batches(0))
    return {"model": setting.model, "setting": setting, "inputs": inputs, "labels": labels, "share": 0.5}


def wider() -> Image:
    """`convolutional` with a teacher whose features are wider than the student's."""
    setting = convolutional()
    torch.manual_seed(1)
    setting.teacher = Convolutional((5, 5, 9), 3).eval().requires_grad_(False)
    return setting


def without_teacher() -> Any:
    """`convolutional` with nothing to learn from."""
    return SimpleNamespace(**{**vars(convolutional()), "teacher": None})
