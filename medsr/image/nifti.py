"""NIfTI and MGH files in and out: the one module of the format that other floors import."""

from medsr.image.nifti_inspect import inspect as inspect
from medsr.image.nifti_read import Scan as Scan
from medsr.image.nifti_read import read as read
from medsr.image.nifti_read import read_scan as read_scan
from medsr.image.nifti_read import read_scans as read_scans
from medsr.image.nifti_write import MARK as MARK
from medsr.image.nifti_write import write as write
