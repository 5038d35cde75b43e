"""Many objects: plan, engine, report."""

from holdfast.downloads.downloads import Downloads as Downloads
from holdfast.downloads.failures import DownloadError as DownloadError
from holdfast.downloads.items import Added as Added
from holdfast.downloads.items import Plan as Plan
from holdfast.downloads.items import Report as Report
from holdfast.downloads.lists import Entry as Entry
