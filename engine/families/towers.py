"""TowerFamily: what the families have in common whose stage 1 is one tower of encoders/, without a CTC head."""

from pathlib import Path
from typing import Any, ClassVar

from ..acoustic.base import StageOneOptions
from ..acoustic.runner import load_module, read_config
from ..acoustic.tower import TowerModel
from ..manifest import ACOUSTIC_NAME, EngineManifest


class TowerFamily:
    """See ModelFamily."""

    tower: ClassVar[type[Any]]  # a Tower that is made of a `config`
    config: ClassVar[type[Any]]
    part: ClassVar[str]  # what the tower is called in messages

    def build_acoustic_model(
        self, engine_dir: Path, manifest: EngineManifest, options: StageOneOptions
    ) -> tuple[TowerModel, None]:
        config = read_config(lambda sizes: self.config(**sizes), engine_dir, manifest, self.part)
        tower = load_module(engine_dir / ACOUSTIC_NAME, lambda: self.tower(config), options)
        return TowerModel(tower, options), None
