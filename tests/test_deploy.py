"""The files of deploy/ agree with the command `dia-hf serve`, with the repository, and with each other."""

import argparse
import configparser
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from dia_hf_command.parser import make_parser

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"


def instructions() -> list[tuple[str, str]]:
    """Return name and arguments of each instruction of the Dockerfile."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


def last(name: str) -> str:
    return [arguments for instruction, arguments in instructions() if instruction == name][-1]


def services() -> dict[str, dict]:
    """Return the services of compose.yaml, with the default of each variable."""
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    return yaml.safe_load(re.sub(r"\$\{\w+(?::[-?]([^}]*))?\}", r"\1", text))["services"]


def unit() -> configparser.SectionProxy:
    """Return the section [Service] of the unit; of an option that is there several times, the last."""
    parser = configparser.ConfigParser(strict=False, delimiters=["="], interpolation=None, comment_prefixes=["#"])
    parser.optionxform = str  # names are case-sensitive
    parser.read_string(re.sub(r"\\\n\s*", " ", (DEPLOY / "dia-hf.service").read_text("utf-8")))
    return parser["Service"]


def parse(command: list[str]) -> argparse.Namespace:
    """Parse a command line of `dia-hf serve`, from the name of the program on."""
    assert Path(command[0]).name == "dia-hf"
    return make_parser().parse_args(command[1:])


def parse_container(command: list[str]) -> argparse.Namespace:
    return parse([*json.loads(last("ENTRYPOINT")), *command])


@pytest.mark.parametrize("name", sorted(services()))
def test_the_composed_command_is_one_of_ours(name):
    """An option of compose.yaml was renamed in the command, or the container was killed while it finished speech."""
    service = services()[name]
    args = parse_container(service["command"])
    assert int(service["stop_grace_period"].removesuffix("s")) > args.shutdown_timeout
    assert service["ports"][0].endswith(f":{args.port}")


def test_the_containers_command_is_one_of_ours():
    """An option of the Dockerfile was renamed in the command, or its parts named different ports or folders."""
    args = parse_container(json.loads(last("CMD")))
    assert args.port == int(last("EXPOSE"))
    assert f"127.0.0.1:{args.port}/health" in last("HEALTHCHECK")
    assert args.host == "0.0.0.0"  # the container's network is its own
    volumes = {volume.partition(":")[2] for service in services().values() for volume in service["volumes"]}
    assert volumes == {last("VOLUME")} == {f"/{Path(args.voices).parts[1]}"}


def test_the_build_copies_what_there_is():
    """A file that the Dockerfile copies was moved, or .dockerignore hides it."""
    hidden = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    for instruction, arguments in instructions():
        if instruction == "COPY" and "--from" not in arguments:
            for name in arguments.split()[:-1]:
                assert (ROOT / name).exists(), name
                assert f"!{name}" in hidden, name
    assert not [pattern for pattern in hidden if pattern.startswith("!") and not list(ROOT.glob(pattern[1:]))]


def test_the_build_has_what_it_needs():
    """The build hook was not copied, so no image could be built; or there was no compiler for the operators."""
    copied = {name for instruction, line in instructions() if instruction == "COPY" for name in line.split()[:-1]}
    assert {"pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "src"} <= copied
    stages = [index for index, (instruction, _) in enumerate(instructions()) if instruction == "FROM"]
    build = instructions()[stages[0] : stages[1]]
    assert any(instruction == "RUN" and "g++" in arguments for instruction, arguments in build)


def test_the_extras_exist():
    """The container or the unit installs an extra that the package does not have."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = re.findall(r'"(?:\.|dia-hf)\[([\w,]+)\]"', "".join(path.read_text("utf-8") for path in DEPLOY.rglob("*.*")))
    assert named
    assert {extra for names in named for extra in names.split(",")} <= set(extras)


def test_the_units_command_is_one_of_ours():
    """An option of the unit was renamed in the command, or systemd killed the server while it finished speech."""
    service = unit()
    args = parse(shlex.split(service["ExecStart"]))
    assert int(service["TimeoutStopSec"]) > args.shutdown_timeout
    assert service["KillSignal"] == "SIGTERM"
    assert Path(args.voices).parts[:2] == ("%S", service["StateDirectory"])
    assert args.host == "127.0.0.1"


def test_the_images_are_built_here():
    """compose.yaml named a Dockerfile or a build argument that does not exist."""
    declared = {arguments.partition("=")[0] for instruction, arguments in instructions() if instruction == "ARG"}
    for service in services().values():
        build = service["build"]
        assert (DEPLOY / build["context"] / build["dockerfile"]).samefile(DEPLOY / "Dockerfile")
        assert set(build.get("args", {})) <= declared


def serve_configs() -> dict[str, dict]:
    """Return the config of Serve by file: that of KubeRay is a text in a field."""
    kuberay = yaml.safe_load((DEPLOY / "ray" / "kuberay.yaml").read_text("utf-8"))
    return {
        "serve.yaml": yaml.safe_load((DEPLOY / "ray" / "serve.yaml").read_text("utf-8")),
        "kuberay.yaml": yaml.safe_load(kuberay["spec"]["serveConfigV2"]),
    }


@pytest.mark.parametrize("name", ["serve.yaml", "kuberay.yaml"])
def test_a_config_of_serve(name):
    """A field of Ray's or an argument of ours was renamed, or a limit was below the batch or the longest speech."""
    schema = pytest.importorskip("ray.serve.schema")
    from dia_hf.serving import ray

    config = schema.ServeDeploySchema.model_validate(serve_configs()[name])
    (application,) = config.applications
    (deployment,) = application.deployments
    module, _, function = application.import_path.partition(":")
    assert getattr(ray, function) is ray.app and module == ray.__name__
    arguments = ray.AppArguments.model_validate(application.args)
    assert deployment.name == ray.DEPLOYMENT
    assert deployment.max_ongoing_requests >= arguments.max_batch_size
    assert deployment.autoscaling_config["target_ongoing_requests"] <= arguments.max_batch_size
    assert deployment.backpressure_config.status_code == 429
    ours = arguments.deployment_options()
    assert deployment.max_ongoing_requests == ours["max_ongoing_requests"]
    assert deployment.max_queued_requests == ours["max_queued_requests"]


def test_the_pods_of_kuberay():
    """A pod was killed before its replicas had finished what they spoke, or its proxy answered errors in plain text."""
    spec = yaml.safe_load((DEPLOY / "ray" / "kuberay.yaml").read_text("utf-8"))["spec"]
    (application,) = serve_configs()["kuberay.yaml"]["applications"]
    longest = application["deployments"][0]["graceful_shutdown_timeout_s"]
    cluster = spec["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] > longest
        environment = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
        module, _, function = environment["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"].partition(":")
        assert callable(getattr(importlib.import_module(module), function))
        assert "DIA_HF_API_KEY" in environment
        mounts = [one["mountPath"] for one in pod["containers"][0]["volumeMounts"]]
        assert any(application["args"]["voices"].startswith(f"{mount}/") for mount in mounts)
