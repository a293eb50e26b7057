"""Layout, theme and plain controls of the page, as Gradio's blocks without server events."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..._extras import import_extra
from ...speech.dia import Dia

__all__ = ["make_blocks", "make_theme", "sampling_defaults"]

_FONT = ["system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif"]
_FONT_MONO = ["ui-monospace", "Menlo", "Consolas", "Liberation Mono", "monospace"]


class _Slider(NamedTuple):
    name: str
    label: str
    low: float
    high: float
    step: float
    off: float  # value that has no effect
    info: str


_SLIDERS = (
    _Slider("cfg_scale", "Guidance", 1, 10, 0.1, 1, "1 switches it off."),
    _Slider("temperature", "Temperature", 0, 2.5, 0.05, 1, "0 is greedy."),
    _Slider("top_p", "Top-p", 0.05, 1, 0.01, 1, "1 keeps all tokens."),
    _Slider("cfg_filter_top_k", "Guidance top-k", 1, 200, 1, 200, "Best tokens to keep."),
    _Slider("speed", "Speed", 0.5, 2, 0.05, 1, "At the same pitch."),
)


def sampling_defaults(dia: Dia) -> dict[str, float]:
    """Return the sampling parameters of a request that names none: those of the checkpoint.

    Args:
        dia (`Dia`): The model.
    """
    config = dia.model.generation_config
    values = {
        "cfg_scale": config.guidance_scale,
        "temperature": config.temperature if config.do_sample else 0.0,
        "top_p": config.top_p,
        "cfg_filter_top_k": config.top_k,
    }
    off = {slider.name: slider.off for slider in _SLIDERS}
    return off | {name: value for name, value in values.items() if value is not None}


def make_theme() -> Any:
    """Return the theme: fonts of the system, so that no font is requested from another host."""
    gr: Any = import_extra("gradio")
    theme = gr.themes.Base(
        primary_hue="indigo", neutral_hue="slate", radius_size="lg", font=_FONT, font_mono=_FONT_MONO
    )
    return theme.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        input_background_fill="white",
        input_background_fill_dark="*neutral_800",
        input_border_width="1px",
        block_padding="10px 18px",  # that of page.css
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_text_weight="600",
        body_text_color_subdued="*neutral_600",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
    )


def make_blocks(dia: Dia) -> Any:
    """Return the page as `gradio.Blocks`.

    Args:
        dia (`Dia`): The model, whose sampling parameters the sliders begin with.
    """
    gr: Any = import_extra("gradio")
    with gr.Blocks(title="Dia", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML("<dia-header></dia-header>", apply_default_css=False)
        with gr.Tabs():
            with gr.Tab("Speak", elem_id="dia-tab-speak"), gr.Row():
                with gr.Column(scale=5, min_width=320):
                    gr.HTML("<dia-speak></dia-speak>", apply_default_css=False)
                with gr.Column(scale=2, min_width=280):
                    gr.HTML("<dia-cast></dia-cast>", apply_default_css=False)
                    _add_settings(gr, sampling_defaults(dia))
            with gr.Tab("Voices", elem_id="dia-tab-voices"):
                gr.HTML("<dia-voices></dia-voices>", apply_default_css=False)
            with gr.Tab("History", elem_id="dia-tab-history"):
                gr.HTML("<dia-history></dia-history>", apply_default_css=False)
    return blocks


def _add_settings(gr: Any, defaults: dict[str, float]) -> None:
    """Add the controls of a request's parameters; they tell the page's modules their values, and not the server."""
    controls = {}
    with gr.Group():
        controls["seed"] = gr.Textbox(
            label="Seed", info="The same seed gives the same speech.", placeholder="random", max_lines=1, max_length=16
        )
        for slider in _SLIDERS:
            controls[slider.name] = gr.Slider(
                min(slider.low, value := defaults[slider.name]),
                max(slider.high, value),
                value,
                step=slider.step,
                label=slider.label,
                info=slider.info,
            )
        controls["max_seconds"] = gr.Textbox(
            label="Longest audio", info="In seconds.", placeholder="no limit", max_lines=1, max_length=8
        )
    for name, control in controls.items():
        control.change(None, [control], None, js=f"(value) => {{ window.diaPage?.setSetting('{name}', value); }}")
    names = list(controls)
    # Clicked by the modules, to show the settings of a clip in the history.
    restore = gr.Button(visible="hidden", elem_id="dia-restore")
    restore.click(None, None, list(controls.values()), js=f"() => window.diaPage.settingsOf({names})")
