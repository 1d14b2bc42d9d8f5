from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

import internimage.openmmlab  # noqa: F401  (registers)
from internimage.openmmlab.configuration import load_config
from internimage.openmmlab.engine import dataset_classes

ROOT = Path(__file__).resolve().parents[2]
DEMOS = sorted((ROOT / 'configs' / 'demo').glob('*.py'))


@pytest.mark.parametrize('path', DEMOS, ids=lambda path: path.stem)
class TestDemoConfigs:
    def test_builds_and_can_be_dumped(self, path, tmp_path):
        cfg = Config.fromfile(path)
        cfg.dump(tmp_path / 'dumped.py')
        assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            model = MODELS.build(cfg.model)
        assert sum(p.numel() for p in model.backbone.parameters()) < 2e6

    def test_heads_have_the_classes_of_the_data(self, path):
        cfg = Config.fromfile(path)
        classes = len(dataset_classes(cfg, 'train'))
        model = cfg.model
        heads = [model.get(name) for name in ('decode_head', 'auxiliary_head', 'bbox_head')]
        heads += (model.get('roi_head') or {}).values()
        found = {head['num_classes'] for head in heads if isinstance(head, dict) and 'num_classes' in head}
        assert found == {classes}

    def test_the_data_root_moves_as_one(self, path):
        cfg = load_config(str(path), {'data_root': '/elsewhere'})
        old = Config.fromfile(path).data_root
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            assert loader.dataset.data_root.startswith('/elsewhere')
        assert old not in cfg.pretty_text.replace('/elsewhere/', '')
