"""The closed vocabulary of the mini benchmarks: what can be written, drawn and asked."""

from __future__ import annotations

WORDS = (
    "maple cedar birch willow aspen olive lemon mango peach grape melon berry apple onion carrot pepper "
    "tiger zebra horse panda otter eagle robin raven falcon salmon shark whale camel koala lizard turtle "
    "river ocean desert valley island canyon forest garden bridge castle tower market museum harbor station "
    "hotel piano violin guitar drum flute copper silver marble cotton velvet paper glass anchor candle "
    "mirror basket"
).split()
CODES = "xqzt vrkb jwpf zgdm qhlx bvnk fjtw kpxz wdrq gzhv mxbj tqkf nvzw pjgx hqdv lkzb".split()
NUMBERS = [str(n) for n in range(10, 100)]
VALUES = [*WORDS, *CODES, *NUMBERS]

FIELDS = (
    "name date total city item order price street client vendor phone account amount title office region "
    "branch agent status source target method model batch floor room seat gate route driver weight height "
    "size brand type grade level"
).split()
MONTHS = "January February March April May June July August September October November December".split()
COUNTRIES = "Peru Chile Japan India Spain Kenya Egypt Italy".split()
KEYS = [*FIELDS, *MONTHS, *COUNTRIES]

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (205, 30, 35),
    "green": (30, 140, 50),
    "blue": (35, 70, 200),
    "yellow": (240, 210, 30),
    "purple": (130, 40, 150),
    "orange": (240, 130, 20),
    "black": (25, 25, 25),
}
SHAPES = "circle square triangle star heart diamond cross ring arrow wedge".split()
COUNTS = [str(n) for n in range(1, 10)]

FILLER = (
    "please note that this page was made by hand and may be used for any of our tests as long as you keep it "
    "in good order thank you for the visit we hope to see all of it again soon terms apply see back"
).split()

# What a patch of a picture can show, in groups of which it shows at most one member each.
GROUPS: dict[str, list[str]] = {
    "value": VALUES,
    "key": KEYS,
    "color": list(COLORS),
    "shape": SHAPES,
    "count": COUNTS,
    "extreme": ["highest", "lowest"],
    "side": ["left", "right"],
    "height": ["top", "bottom"],
    "marker": ["blank", "label", "text", "sign", "bar"],
}
GROUP_NAMES = list(GROUPS)
MEMBER = {word: (g, i + 1) for g, name in enumerate(GROUP_NAMES) for i, word in enumerate(GROUPS[name])}

# The fixed endings that lmms-eval's task files add to a question.
POST_PROMPTS: dict[str, str] = {
    "vqav2": "\nAnswer the question using a single word or phrase.",
    "scienceqa": "\nAnswer with the option's letter from the given choices directly.",
    "textvqa": "\nAnswer the question using a single word or phrase.",
    "docvqa": "\nAnswer the question using a single word or phrase.",
    "ocrbench": "",
    "mme": "\nAnswer the question using a single word or phrase.",
    "pope": "\nAnswer the question using a single word or phrase.",
    "chartqa": "\nAnswer the question with a single word.",
}
BENCHMARKS = list(POST_PROMPTS)
