"""The accelerate configurations that come with the recipes."""

from __future__ import annotations

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType

from knowcap.recipe_file import RECIPES_DIR
from knowcap.run.launch import Launcher


PROCESSES = {"cpu": 1, "cpu_2": 2, "multi_gpu": 8, "multi_node": 16, "fsdp2": 8}


def launch_arguments(name: str, *options: str):
    """What accelerate's launcher makes of `knowcap --accelerate_config NAME`."""
    command = Launcher.named(name).command("knowcap.train", ["--config", "x.yaml"])
    words = command[command.index("accelerate.commands.launch") + 1 :]
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
