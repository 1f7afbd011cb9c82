"""Makes ``encoder=<any timm model name>`` and ``encoder=smp/<name>`` choices of the group ``encoder``.

They come after the files in ``conf/encoder``, so that a file of the same name wins. Hydra's ``glob()`` sees every name;
``--help`` (``seggrid/help.py``) has one phrase for all of them.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from seggrid.encoder_names import encoder_names, is_encoder

SCHEME = "seggrid-encoders"
GROUP = "encoder"


class EncoderSource(ConfigSource):
    """A source of one-line configurations, ``name: <encoder>``."""

    @staticmethod
    def scheme() -> str:
        """The part before ``://`` in a search path."""
        return SCHEME

    def available(self) -> bool:
        """Always: the names come with the installed libraries."""
        return True

    def is_group(self, config_path: str) -> bool:
        """The source has one group."""
        return config_path in ("", GROUP)

    def is_config(self, config_path: str) -> bool:
        """Every encoder name is a configuration of that group."""
        group, _, name = config_path.removesuffix(".yaml").partition("/")
        return group == GROUP and bool(name) and is_encoder(name)

    def load_config(self, config_path: str) -> ConfigResult:
        """Returns ``name: <encoder>``."""
        name = config_path.removesuffix(".yaml").partition("/")[2]
        config = OmegaConf.create({"name": name})
        return ConfigResult(provider=self.provider, path=self.full_path(), config=config, header={"package": None})

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Lists the names, for ``glob()`` and for shell completion."""
        if config_path == "" and results_filter is not ObjectType.CONFIG:
            return [GROUP]
        if config_path != GROUP or results_filter is ObjectType.GROUP:
            return []
        return sorted(encoder_names())


class EncoderSearchPath(SearchPathPlugin):
    """Puts the source behind the files in ``conf``."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra while it composes."""
        search_path.append(provider="seggrid", path=f"{SCHEME}://")
