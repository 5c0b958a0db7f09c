"""serve: a trained model as an HTTP server."""

from __future__ import annotations

from pathlib import Path

from loguru import logger

from umemma.errors import UserError
from umemma.types import BrokenPolicy


def run(
    folder: Path,
    host: str,
    port: int,
    max_bytes: int,
    max_requests: int,
    threads: int | None,
    trust: bool = False,
    broken: BrokenPolicy = "absent",
) -> None:
    """Answer with the model in `folder` until Ctrl-C or SIGTERM, which raises UserError.

    threads: that answer; None is one per core, but at most 4, as torch itself uses several.
    UserError too for a port that is taken, and where the packages of the server are missing.
    """
    _check_installed()
    from umemma.models import predictor
    from umemma.serving import server
    from umemma.serving.app import make_app
    from umemma.serving.limits import Limits
    from umemma.system.cores import count_cores
    from umemma.training.reproducibility import set_threads

    limits = Limits(max_bytes, max_requests, threads or min(count_cores(), 4))
    with server.listen(host, port) as listener:
        set_threads(None)
        model = predictor.load(folder, trust, broken=broken)
        app = make_app(model, limits, host)
        logger.info(f"{' and '.join(model.modalities)}: {server.get_address(listener)}")
        server.serve(app, listener)


def _check_installed() -> None:
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        hint = "Install it: pip install 'umemma[serve]'"
        raise UserError("the server is not installed", "umemma serve", hint) from None
