"""The page at `/ui`: a script editor, voices, sampling parameters, and playback while audio is generated.

Gradio makes layout, theme and plain controls (`layout.py`). The rest are custom elements in `files/`, ES modules
without a build step, which use the server's own API as any client does. So Gradio runs nothing on the server, and of
its routes only those of its files are served (`mount.py`). Needs `pip install "dia-hf[ui]"`.
"""

from .mount import mount_page

__all__ = ["mount_page"]
