"""Shows the examples in docstrings as code."""

import re

from griffe import Extension, Object


class Doctests(Extension):
    """Puts every example that starts with `>>>` into a code block."""

    def on_object(self, *, obj: Object, **_: object) -> None:
        """Change the docstring of an object."""
        if obj.docstring:
            examples = re.compile(r"^>>> (?:.+\n?)+", re.MULTILINE)
            value = obj.docstring.value
            obj.docstring.value = examples.sub(lambda m: f"```pycon\n{m[0].rstrip()}\n```\n", value)
