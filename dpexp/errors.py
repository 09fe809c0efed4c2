"""Every exception a user can meet. Each message says what was found, why it matters, what to do."""


class DpexpError(ValueError):
    """Base of all errors that a user can mend.

    Attributes:
        exit_code: What the command line exits with: 1 a run failed, 2 bad usage.
    """

    exit_code = 2


class ConfigError(DpexpError):
    """A key, group, type or range in the configuration is wrong; may list several problems."""


class DataError(DpexpError):
    """A data set is missing, corrupt, or not what the configuration says it is."""


class ModelError(DpexpError):
    """A model cannot be built, loaded, or trained per sample."""


class UnknownNetworkError(ModelError):
    """No network has the name asked for, or no weights the tag."""


class AccountingError(DpexpError):
    """No accountant can bound the requested mechanism, or a budget cannot be met."""


class LedgerError(DpexpError):
    """The privacy ledger of a run is damaged, cannot be written, or is of another mechanism."""


class UncoveredParameterError(DpexpError):
    """A trainable parameter reaches the loss past the engine, so it would not be clipped."""


class CrossSampleError(DpexpError):
    """One sample's loss depends on another sample, so per-sample gradients do not exist."""


class EngineError(DpexpError):
    """The privacy engine was used in a way that would void the guarantee."""


class MetricError(DpexpError):
    """Logits and labels do not fit each other, or allow no measurement."""


class RunFolderError(DpexpError):
    """A run folder is missing, unreadable, or belongs to a different run."""


class RunFailedError(DpexpError):
    """A run stopped before its end."""

    exit_code = 1
