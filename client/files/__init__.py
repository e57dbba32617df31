"""Pretrained rows in, trained rows out: any of the usual files, a block at a time, also larger than memory."""

from .transfer import Imported, export_table, from_pretrained, import_table

__all__ = ["Imported", "export_table", "from_pretrained", "import_table"]
