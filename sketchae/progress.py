"""Progress bars that the caller and the environment can both switch off."""


def hide_if(hidden: bool) -> dict[str, bool]:
    """Arguments for tqdm: `disable=True` where `hidden`, else nothing, so that the variable TQDM_DISABLE still counts."""
    return {"disable": True} if hidden else {}
