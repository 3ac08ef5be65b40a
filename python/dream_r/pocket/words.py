"""The words of the pocket world: what a cell can show and every token that a step is made of."""

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
PLURALS = tuple(f"{shape}{'es' if shape.endswith('s') else 's'}" for shape in SHAPES)
DIGITS = ("1", "2", "3", "4")
COLUMNS = ("a", "b", "c", "d", "e")
LARGEST = 36  # numbers up to here are one token each

END_OF_STEP = ".\n\n"
END_OF_THINKING = "</think>"
POSITIVE, NEGATIVE = " positive", " negative"
SUFFIX = "Verdict:"  # the question put to the judge after a candidate step

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<think>",
    "</think>",
)

# How text is cut before look-up; a piece that is no known word is spelled in bytes.
PIECES = (
    r"\.\n\n|\n\n|\n| ?\\boxed\{| (?:yes|no),| ?\p{L}+| ?\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]|\s"
)

_PROSE = (
    "user",
    "assistant",
    "system",
    "Row",
    "First",
    "Now",
    "Sum",
    "Together",
    "Difference",
    "Most",
    "Compare",
    "The",
    "Verdict",
    "I",
    "count",
    "add",
    "Add",
    "Are",
    "In",
    "By",
    "the",
    "of",
    "so",
    "more",
    "equal",
    "answer",
    "is",
    "are",
    "there",
    "How",
    "many",
    "What",
    "Which",
    "row",
    "has",
    "most",
    "do",
    "up",
    "to",
    "in",
    "all",
    "and",
    "than",
    "or",
    "fewer",
    "Count",
    "Find",
    "out",
    "together",
    "picture",
    "between",
    "number",
    "difference",
    "shapes",
    "digits",
    "empty",
    "yes",
    "no",
    "positive",
    "negative",
    "with",
    "much",
    "by",
    "on",
    "an",
    "at",
    "it",
    "this",
    "that",
    "how",
    "which",
    "what",
    "where",
    "Look",
    "differ",
    "step",
)


def vocabulary() -> list[str]:
    """Every word token in id order (after the 256 bytes, before the special tokens)."""
    words = [END_OF_STEP, "\n\n", " \\boxed{", "\\boxed{", " yes,", " no,"]
    words += [f"{lead}{n}" for n in range(LARGEST + 1) for lead in ("", " ")]
    for word in (*_PROSE, *COLOURS, *SHAPES, *PLURALS, *COLUMNS):
        words += [word, f" {word}"]
    words += [f" {mark}" for mark in "+-=<>?,.:"]
    return list(dict.fromkeys(w for w in words if len(w.encode()) > 1))
