"""Every yaml in configs/ is a job; the seed document's text is one as it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flps.config import Config, load
from flps.models.ctr_dnn.hyper import CtrDnnHyperParameters
from flps.models.ncf.hyper import NcfHyperParameters

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SCHEMAS = {"ncf": NcfHyperParameters, "ctr_dnn": CtrDnnHyperParameters}

# As printed by the quick start, comments and quotes included; only the translated comments are left out.
SEED = """\
runner:
    sync_mode: "geo"
    #with_coodinator: 1
    geo_step: 100
    split_file_list: True
    thread_num: 1

    # DataLoader / QueueDataset / RecDataset
    reader_type: "QueueDataset" # DataLoader / QueueDataset / RecDataset
    pipe_command: "python queuedataset_reader.py"
    dataset_debug: False

    train_data_dir: "../../../datasets/movielens_pinterest_NCF/fl_data/fl_train_data"
    train_reader_path: "movielens_reader"  # importlib format
    train_batch_size: 512
    model_save_path: "output_model_ncf"

    use_gpu: False
    epochs: 2
    print_interval: 50

    test_data_dir: "../../../datasets/movielens_pinterest_NCF/fl_data/fl_test_data"
    infer_reader_path: "movielens_reader"  # importlib format
    infer_batch_size: 1
    infer_load_path: "output_model_ncf"
    infer_start_epoch: 2
    infer_end_epoch: 3

    need_dump: True
    dump_fields_path: "/home/wangbin/the_one_ps/ziyoujiyi_PaddleRec/PaddleRec/models/recall/ncf"
    dump_fields: ['item_input', 'user_input']
    dump_param: []
    local_sparse: ['embedding_0.w_0']
    remote_sparse: ['embedding_1.w_0']

hyper_parameters:
    optimizer:
        class: adam
        learning_rate: 0.001
    num_users: 6040
    num_items: 3706
    mf_dim: 8
    mode: "NCF_MLP"  # optional: NCF_NeuMF, NCF_GMF, NCF_MLP
    fc_layers: [64, 32, 16, 8]
"""


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_is_a_job(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(load(path, schemas=SCHEMAS), Config)
    assert caplog.records == []


def test_the_seeds_text_is_a_job(tmp_path: Path) -> None:
    path = tmp_path / "config_fl.yaml"
    path.write_text(SEED, encoding="utf-8")
    config = load(path, schemas=SCHEMAS)
    assert config == load(CONFIGS / "config_fl.yaml", schemas=SCHEMAS)
    for key, value in yaml.safe_load(SEED)["runner"].items():
        assert getattr(config.runner, key) == (tuple(value) if isinstance(value, list) else value)
    assert config.hyper_parameters["mode"] == "NCF_MLP"
    assert (config.placement("user_embedding"), config.placement("item_embedding")) == ("private", "shared")


def test_both_switches_of_the_quick_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = SEED.replace("#with_coodinator", "with_coodinator")
    text = text.replace("    local_sparse", "    #local_sparse").replace("    remote_sparse", "    #remote_sparse")
    path = tmp_path / "config_fl.yaml"
    path.write_text(text, encoding="utf-8")
    config = load(path, schemas=SCHEMAS)
    assert config.runner.with_coordinator is True
    assert (config.runner.local_sparse, config.runner.remote_sparse) == ((), ())
    assert "with_coodinator is read as runner.with_coordinator" in caplog.text


def test_our_own_job_keeps_users_private_and_dumps_nothing() -> None:
    config = load(CONFIGS / "ncf.yaml", schemas=SCHEMAS)
    assert (config.placement("user_embedding"), config.placement("item_embedding")) == ("private", "shared")
    assert not config.runner.need_dump
    assert config.runner.fresh_negatives
    assert config.runner.train_data_dir == "embedded:movielens_like"
