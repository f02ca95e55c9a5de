"""The accelerate configurations that come with the recipes."""

from __future__ import annotations

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

from knowcap.models.devices import launch_problems, launched_gpus
from knowcap.recipe_file import RECIPES_DIR
from knowcap.run.launch import Launcher


PROCESSES = {"cpu": 1, "cpu_2": 2, "multi_gpu": 8, "multi_node": 16, "fsdp2": 8}


def launch_arguments(name: str, *options: str):
    """What accelerate's launcher makes of `knowcap --accelerate_config NAME`."""
    command = Launcher.named(name).command("knowcap.train", ["--config", "x.yaml"])
    words = command[command.index("knowcap.run.agent") + 1 :]
    return _validate_launch_command(launch_command_parser().parse_args([*options, *words]))[0]


def test_every_configuration_is_known_here():
    assert {path.stem for path in (RECIPES_DIR / "accelerate").glob("*")} == set(PROCESSES)


@pytest.mark.parametrize(("name", "processes"), PROCESSES.items())
def test_accelerate_loads_it_with_its_number_of_processes(name: str, processes: int):
    config = load_config_from_file(str(RECIPES_DIR / "accelerate" / f"{name}.yaml"))
    assert config.num_processes == processes
    assert config.mixed_precision == "no"


@pytest.mark.parametrize("name", ["cpu_2", "multi_gpu", "multi_node"])
def test_several_processes_are_started_by_the_launcher_that_starts_several(name: str):
    args = launch_arguments(name)
    assert args.multi_gpu
    assert not args.cpu
    assert args.num_processes == PROCESSES[name]


def test_one_process_on_the_cpu_uses_the_simple_launcher():
    args = launch_arguments("cpu")
    assert args.use_cpu
    assert not args.multi_gpu


def test_two_cpu_processes_see_no_gpu():
    assert set(launch_arguments("cpu_2").gpu_ids.split(",")) == {"-1"}


def test_fsdp_is_version_2_and_saves_whole_checkpoints():
    config = load_config_from_file(str(RECIPES_DIR / "accelerate" / "fsdp2.yaml"))
    assert config.distributed_type == DistributedType.FSDP
    assert config.fsdp_config["fsdp_version"] == 2
    assert config.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
    assert launch_arguments("fsdp2").use_fsdp


@pytest.mark.parametrize("name", ["multi_gpu", "multi_node", "fsdp2"])
def test_what_no_gpu_has_run_is_marked_untested(name: str):
    assert (RECIPES_DIR / "accelerate" / f"{name}.yaml").read_text().startswith("# Untested")


def test_machines_have_equally_many_processes():
    config = load_config_from_file(str(RECIPES_DIR / "accelerate" / "multi_node.yaml"))
    assert config.num_machines == 2
    assert config.num_processes % config.num_machines == 0


def test_the_number_of_processes_can_be_given():
    command = Launcher.named("multi_gpu", 4).command("knowcap.train", [])
    assert command[command.index("--num_processes") + 1] == "4"


def test_an_unknown_configuration_is_reported_with_those_that_exist():
    with pytest.raises(ValueError, match=r"'gpus'.*cpu, cpu_2, fsdp2, multi_gpu, multi_node"):
        Launcher.named("gpus")


def test_a_file_of_ones_own_is_a_configuration(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text((RECIPES_DIR / "accelerate" / "cpu.yaml").read_text())
    assert Launcher.named(str(file)).config_file == file


GPUS = {"cpu": 0, "cpu_2": 0, "multi_gpu": 8, "multi_node": 8, "fsdp2": 8}


@pytest.mark.parametrize("name", PROCESSES)
def test_the_gpus_that_it_asks_for_are_found_in_the_file_and_in_what_accelerate_sets(name, monkeypatch):
    monkeypatch.setattr("accelerate.utils.launch.is_port_in_use", lambda _: False)
    args, config = launch_arguments(name), load_config_from_file(str(Launcher.named(name).config_file))
    if args.multi_gpu or args.use_fsdp:
        here = config.num_processes // config.num_machines  # what torchrun sets for each process
        environment = prepare_multi_gpu_env(args) | {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": str(here)}
    else:
        environment = prepare_simple_launcher_cmd_env(args)[1]
    assert launched_gpus(environment) == Launcher.named(name).gpus_here == GPUS[name]


def test_more_gpus_than_the_machine_or_gpu_ids_have_are_a_problem(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert Launcher.named("multi_gpu", 4).problems() == Launcher.named("cpu_2", 8).problems() == []
    assert Launcher.named("multi_node", 8).problems() == []  # four on each of two machines
    assert "asks for 8 GPUs on this machine, but it has 4; give --num_processes 4" in launcher_problem("multi_gpu", 8)
    file = tmp_path / "mine.yaml"
    file.write_text("distributed_type: MULTI_GPU\ngpu_ids: 0,2\nnum_processes: 3\n")
    assert "asks for 3 GPUs on this machine, but it has 2; give --num_processes 2" in launcher_problem(str(file))


@pytest.mark.parametrize("kind", ["NO", "'NO'", "MULTI_CPU"])
def test_several_processes_of_a_kind_of_which_accelerate_starts_one_are_a_problem(kind, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"distributed_type: {kind}\nuse_cpu: true\nnum_processes: 2\n")
    assert f"starts one process, since its distributed_type is {kind.strip(chr(39))}" in launcher_problem(str(file))
    file.write_text(f"distributed_type: {kind}\nuse_cpu: true\nnum_processes: 1\n")
    assert Launcher.named(str(file)).problems() == []


def test_kinds_that_training_does_not_support_are_a_problem(tmp_path, monkeypatch):
    file = tmp_path / "mine.yaml"
    file.write_text("distributed_type: DEEPSPEED\nnum_processes: 2\n")
    assert "distributed_type DEEPSPEED, which is not supported; expected NO, MULTI_GPU or FSDP" in launcher_problem(
        str(file)
    )
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert "DeepSpeed, which is not supported" in launch_problems()[0]


def launcher_problem(name: str, processes: int | None = None) -> str:
    (problem,) = Launcher.named(name, processes).problems()
    return problem
