"""`rowloom render k8s`: a deploy config as files for Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..cli_options import DEPLOY_YAML, AsJson, wrong_use
from ..terminal import show

render = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Write a deploy config as files for other machinery.",
)


@render.callback()
def _group() -> None:
    """Write a deploy config as files for other machinery."""


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(render, name="render")


@render.command()
def k8s(
    config: Annotated[Path, typer.Argument(help="The deploy config.")] = DEPLOY_YAML,
    out: Annotated[Path, typer.Option(help="The folder that the files go to.")] = Path("k8s"),
    image: Annotated[
        str, typer.Option(help="What pods run, with a tag or a digest.", show_default="rowloom:VERSION")
    ] = "",
    namespace: Annotated[str, typer.Option(help="None: the one that kubectl has.")] = "",
    storage_class: Annotated[
        str,
        typer.Option(
            help="Make a volume of it for a `storage` that is a folder; it must offer ReadWriteMany."
        ),
    ] = "",
    storage_size: Annotated[str, typer.Option(help="Of that volume.")] = "100Gi",
    claim: Annotated[str, typer.Option(help="A PersistentVolumeClaim that is there, for `storage`.")] = "",
    service_account: Annotated[
        str, typer.Option(help="Of the pods; what an object store knows them by.")
    ] = "",
    spare: Annotated[
        int, typer.Option(min=0, max=1024, help="Worker pods beside those that hold shards.")
    ] = 1,
    shards_per_pod: Annotated[int, typer.Option(min=1, max=64, help="How many shards share a pod.")] = 1,
    redis: Annotated[
        str, typer.Option(help="host:port of a Redis that keeps what Ray's head knows: shards outlive it.")
    ] = "",
    redis_secret: Annotated[str, typer.Option(help="The Secret with its password, under `password`.")] = "",
    kuberay_version: Annotated[str, typer.Option(help="The oldest that must take the files.")] = "1.5.1",
    ray_version: Annotated[
        str, typer.Option(help="Of the image.", show_default="the one that is installed here")
    ] = "",
    scrape_config: Annotated[
        bool, typer.Option("--scrape-config", help="Also write a ScrapeConfig, for Prometheus' operator.")
    ] = False,
    crd: Annotated[
        list[Path] | None,
        typer.Option(
            help="CustomResourceDefinitions to hold the files to, as `kubectl get crd ... -o json` writes them; may be "
            "repeated."
        ),
    ] = None,
    fewer: Annotated[
        bool, typer.Option("--fewer", help="There may be fewer worker pods than the files in the folder say.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write manifests for KubeRay and a Dockerfile from a deploy config. Asks no cluster and no network."""
    from ..config.config import load
    from . import crds, files
    from .options import Options

    with wrong_use():
        options = Options(
            image=image,
            namespace=namespace,
            storage_class=storage_class,
            storage_size=storage_size,
            claim=claim,
            service_account=service_account,
            spare=spare,
            shards_per_pod=shards_per_pod,
            redis=redis,
            redis_secret=redis_secret,
            kuberay_version=kuberay_version,
            ray_version=ray_version,
            scrape_config=scrape_config,
        )
        rendered = files.render(load(config), options)
        known = crds.load_crds(crd or [])
    checked = crds.check([m for found in rendered.manifests.values() for m in found], known) if crd else []
    paths = files.write(rendered, out, fewer=fewer)
    text = files.told(rendered, options, out)
    if checked:
        text = f"{', '.join(checked)}: as the CustomResourceDefinitions have it\n{text}"
    show(as_json, files.summary(rendered, options, paths) | {"checked": checked}, text)
