"""Keeps matplotlib from telling at every start that it has no home: it makes do with a temporary folder by itself.

Imported before matplotlib, which says it while it is imported.
"""

import logging


def _tells_more(record: logging.LogRecord) -> bool:
    return record.funcName != "_get_config_or_cache_dir"


logging.getLogger("matplotlib").addFilter(_tells_more)
