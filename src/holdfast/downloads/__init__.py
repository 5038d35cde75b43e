"""Many objects: plan, engine, report."""

from holdfast.downloads.downloads import Downloads as Downloads
from holdfast.downloads.failures import DownloadError as DownloadError
from holdfast.downloads.items import Report as Report
