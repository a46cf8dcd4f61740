"""The layout of the page, and which control starts which event."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from softfeat.app.choices import EXCLUDE, FILES, INCLUDE, KINDS, OVERLAYS, VIEWS
from softfeat.app.events import NO_FILE, Events, status
from softfeat.app.examples import example_photos

_MOST_LAYERS = 20  # more are hard to tell apart on the page
_BORDER = 30  # pixels
_QUEUE = 32  # events that may wait

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "Consolas", "monospace")

CSS = """
.gradio-container {max-width: 1280px !important}
#status p {margin: 0; font-weight: 600}
#photo img {width: 100% !important; max-height: 75vh; object-fit: contain; cursor: crosshair}
#gallery, #gallery .grid-wrap {height: auto !important; min-height: 0 !important}
@media (max-width: 640px) {.gradio-container {padding: 8px !important}}
"""
HEAD = """<script>
window.addEventListener('pointerdown', e => { window.softfeatShift = e.shiftKey }, true);
</script>"""
_LIVE = """() => {
  const line = document.getElementById('status');
  line.setAttribute('role', 'status');
  line.setAttribute('aria-live', 'polite');
}"""
_SHIFT = f"(mode) => [window.softfeatShift ? '{EXCLUDE}' : mode]"
_SAVE = "() => { setTimeout(() => document.getElementById('save')?.click(), 300) }"
# One analysis at a time. Clicks are answered meanwhile, in their order.
_ANALYSIS: dict[str, Any] = {"concurrency_id": "analysis", "concurrency_limit": 1}
_CLICKS: dict[str, Any] = {"concurrency_id": "clicks", "concurrency_limit": 1}


def theme() -> gr.themes.Base:
    """A theme with the fonts of the system: nothing is fetched from elsewhere."""
    return gr.themes.Default(font=SANS, font_mono=MONO)


def sent_files_only(control: gr.File) -> gr.File:
    """Lets a control take files that the page has sent, and fetch none from other servers."""
    move = control.async_move_resource_to_block_cache

    async def checked(resource: Any) -> Any:
        if str(resource).lower().startswith(("http:", "https:")):
            raise gr.Error(NO_FILE, print_exception=False)
        return await move(resource)

    control.async_move_resource_to_block_cache = checked
    return control


class Page:
    """The page.

    Args:
        events: What happens on it.
        limits: A sentence about the largest photo.
    """

    def __init__(self, events: Events, limits: str) -> None:
        self.events, self.limits = events, limits

    def build(self) -> gr.Blocks:
        """Lays out all controls and connects them with the events."""
        with gr.Blocks(
            title="softfeat", analytics_enabled=False, delete_cache=(600, 3600)
        ) as blocks:
            gr.Markdown(
                "# softfeat\nCut things out of a photo with a click, or divide it into layers."
            )
            with gr.Row():
                with gr.Column(scale=3, min_width=320):
                    source, examples = self._source()
                    self._photo()
                with gr.Column(scale=2, min_width=320), gr.Tabs():
                    self.shown = [self.line, self.picture, self.view]
                    with gr.Tab("Select"):
                        add = self._selection()
                    with gr.Tab("Layers"):
                        divide, counts = self._layers()
                    with gr.Tab("View"):
                        self._view()
                    with gr.Tab("Download"):
                        self._downloads()
            divided = [self.line, self.picture, *self.list]
            found = (self.events.divide, counts, divided)
            self._on(divide.click, *found, **_ANALYSIS)
            opened = [
                self._on(
                    source.upload,
                    self.events.open_file,
                    [source],
                    [*self.shown, source],
                    preprocess=False,
                    **_ANALYSIS,
                )
            ]
            opened += [
                self._on(button.click, self._example(name), [], [*self.shown, source], **_ANALYSIS)
                for name, button in examples.items()
            ]
            for event in opened:
                self._on(event.success, *found, **_ANALYSIS)
            everything = [*self.shown, *self.list]
            self._on(add.click, self.events.add_layer, [], everything, **_ANALYSIS)
            blocks.load(None, js=_LIVE, api_visibility="private")
            blocks.unload(self.events.leave)
        blocks.queue(max_size=_QUEUE, default_concurrency_limit=4)
        return blocks

    @staticmethod
    def _on(
        trigger: Callable[..., Any],
        function: Callable[..., Any],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        **options: Any,
    ) -> Any:
        """Lets a trigger start an event, which only this page can call."""
        options = {"show_progress": "hidden", "api_visibility": "private"} | options
        return trigger(function, list(inputs), list(outputs), **options)

    def _source(self) -> tuple[gr.File, dict[str, gr.Button]]:
        source = sent_files_only(
            gr.File(label=f"Drop a photo here. {self.limits}", height=150, elem_id="source")
        )
        examples = {}
        with gr.Row(elem_id="examples"):
            for name in example_photos():
                examples[name] = gr.Button(f"Try: {name.lower()}", size="sm", min_width=90)
        return source, examples

    def _example(self, name: str) -> Callable[..., Any]:
        def event(request: gr.Request) -> Any:
            yield from self.events.open_example(name, request)

        return event

    def _photo(self) -> None:
        self.line = gr.HTML(status("Choose a photo"), elem_id="status")
        self.picture = gr.Image(
            label="Photo",
            alt_text="The photo with the selection, the cut-out, or the layers",
            type="filepath",
            interactive=False,
            buttons=["fullscreen"],
            elem_id="photo",
        )
        self.view = gr.Radio(list(VIEWS), value="photo", label="View", elem_id="view")

    def _view(self) -> None:
        overlays = gr.CheckboxGroup(list(OVERLAYS), label="Overlays", elem_id="overlays")
        kind = gr.Radio(
            list(KINDS), value="checkerboard", label="Background of cut-outs", elem_id="kind"
        )
        colour = gr.ColorPicker("#ff8800", label="Colour", elem_id="colour")
        photo = sent_files_only(
            gr.File(label="Drop a photo for the background", height=150, elem_id="backdrop")
        )
        seen = [self.view, overlays]
        for trigger in (self.view.input, overlays.input):
            self._on(trigger, self.events.show_view, seen, [self.picture], **_CLICKS)
        behind = [self.line, self.picture, self.view]
        for trigger in (kind.input, colour.change):
            self._on(trigger, self.events.behind, [kind, colour], behind, **_CLICKS)
        self._on(
            photo.upload,
            self.events.behind_photo,
            [photo],
            [*behind, kind, photo],
            preprocess=False,
            **_ANALYSIS,
        )

    def _selection(self) -> gr.Button:
        modes = [("includes", INCLUDE), ("excludes", EXCLUDE)]
        mode = gr.Radio(
            modes,
            value=INCLUDE,
            label="A click on the photo",
            info="Shift and a click always exclude.",
            elem_id="mode",
        )
        with gr.Row():
            undo = gr.Button("Undo", size="md", min_width=80, elem_id="undo")
            clear = gr.Button("Clear", min_width=80, size="md", elem_id="clear")
            subject = gr.Button("Select the subject", min_width=140, size="md", elem_id="subject")
        grow = gr.Slider(-_BORDER, _BORDER, 0, step=1, label="Grow (pixels)", elem_id="grow")
        feather = gr.Slider(0, _BORDER, 0, step=1, label="Feather (pixels)", elem_id="feather")
        with gr.Accordion("Points by numbers", open=False):
            with gr.Row():
                x = gr.Number(label="x (pixels from the left)", precision=0, elem_id="x")
                y = gr.Number(label="y (pixels from the top)", precision=0, elem_id="y")
            point = gr.Button("Add the point", size="md", elem_id="point")
        add = gr.Button("Add the selection as a layer", variant="primary", size="md", elem_id="add")
        events, shown = self.events, self.shown
        self._on(
            self.picture.select,
            events.click,
            [mode],
            shown,
            js=_SHIFT,
            trigger_mode="multiple",
            **_CLICKS,
        )
        self._on(point.click, events.point, [x, y, mode], shown, **_CLICKS)
        for button, event in (
            (undo, events.undo),
            (clear, events.clear),
            (subject, events.subject),
        ):
            self._on(button.click, event, [], shown, trigger_mode="multiple", **_CLICKS)
        for slider in (grow, feather):
            self._on(
                slider.change,
                events.border,
                [grow, feather],
                shown,
                trigger_mode="always_last",
                **_CLICKS,
            )
        return add

    def _layers(self) -> tuple[gr.Button, list[Any]]:
        count = gr.Slider(1, _MOST_LAYERS, 5, step=1, label="Number of layers", elem_id="count")
        automatic = gr.Checkbox(label="Choose the number from the photo", elem_id="automatic")
        divide = gr.Button("Divide the photo", size="md", elem_id="divide")
        gallery = gr.Gallery(
            label="Layers, the top one first",
            columns=4,
            object_fit="contain",
            allow_preview=False,
            buttons=[],
            interactive=False,
            elem_id="gallery",
        )
        visible = gr.CheckboxGroup([], label="Shown", elem_id="shown")
        chosen = gr.Radio([], label="The layer to change", elem_id="chosen")
        with gr.Row():
            solo = gr.Button("Solo", min_width=80, size="md", elem_id="solo")
            up = gr.Button("Move up", min_width=80, size="md", elem_id="up")
            down = gr.Button("Move down", min_width=80, size="md", elem_id="down")
            remove = gr.Button("Remove", min_width=80, size="md", elem_id="remove")
        with gr.Row():
            name = gr.Textbox(label="New name", max_length=60, elem_id="name")
            rename = gr.Button("Rename", min_width=80, size="md", elem_id="rename")
        self.list = [gallery, visible, chosen]
        events, everything = self.events, [*self.shown, *self.list]
        self._on(visible.input, events.show_layers, [visible], [self.picture, self.view], **_CLICKS)
        self._on(gallery.select, events.choose, [], [chosen], **_CLICKS)
        for button, event in (
            (solo, events.solo),
            (up, events.up),
            (down, events.down),
            (remove, events.remove),
        ):
            self._on(button.click, event, [chosen], everything, **_CLICKS)
        for trigger in (rename.click, name.submit):
            self._on(trigger, events.rename, [chosen, name], everything, **_CLICKS)
        return divide, [count, automatic]

    def _downloads(self) -> None:
        gr.Markdown(
            "Cut-outs show the selection. Files of layers hold all layers, also hidden ones."
        )
        save = gr.DownloadButton(
            "Save", visible=False, variant="primary", render=False, elem_id="save"
        )
        for kind, label in FILES.items():
            button = gr.Button(label, size="md", elem_id=f"make-{kind}")
            written = self._on(
                button.click,
                self.events.export(kind),
                [],
                [self.line, save],
                show_progress="minimal",
                **_ANALYSIS,
            )
            written.success(None, js=_SAVE, api_visibility="private")
        save.render()
