"""Functional groups: what an enhanced multi-frame file says of each of its frames."""

from __future__ import annotations

from dataclasses import dataclass

from medsr.image.dicom_head import Head
from medsr.image.dicom_tags import Tags

# Keyword: the sequences in which it stands.
_GROUP_OF = {
    "ImagePositionPatient": ("PlanePositionSequence",),
    "ImageOrientationPatient": ("PlaneOrientationSequence",),
    "PixelSpacing": ("PixelMeasuresSequence",),
    "SliceThickness": ("PixelMeasuresSequence",),
    "SpacingBetweenSlices": ("PixelMeasuresSequence",),
    "RescaleSlope": ("PixelValueTransformationSequence",),
    "RescaleIntercept": ("PixelValueTransformationSequence",),
    "RescaleType": ("PixelValueTransformationSequence",),
    "FrameType": ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence"),
    "ComplexImageComponent": ("MRImageFrameTypeSequence",),
    "EffectiveEchoTime": ("MREchoSequence",),
    "InversionTime": ("MRModifierSequence",),
    "FlipAngle": ("MRTimingAndRelatedParametersSequence",),
    "DiffusionBValue": ("MRDiffusionSequence",),
    "DiffusionGradientDirectionSequence": ("MRDiffusionSequence",),
    "StackID": ("FrameContentSequence",),
    "DimensionIndexValues": ("FrameContentSequence",),
    "TemporalPositionIndex": ("FrameContentSequence",),
    "FrameAcquisitionNumber": ("FrameContentSequence",),
    "FrameAcquisitionDateTime": ("FrameContentSequence",),
    "NominalCardiacTriggerDelayTime": ("CardiacSynchronizationSequence",),
    "KVP": ("CTXRayDetailsSequence",),
    "ConvolutionKernel": ("CTReconstructionSequence",),
    "InPlanePhaseEncodingDirection": ("MRFOVGeometrySequence",),
    "MRAcquisitionFrequencyEncodingSteps": ("MRFOVGeometrySequence",),
    "MRAcquisitionPhaseEncodingStepsInPlane": ("MRFOVGeometrySequence",),
}


@dataclass(frozen=True, eq=False)
class Groups:
    """Functional groups of one frame: its own, then those that all frames share."""

    own: Tags
    shared: Tags | None

    def numbers(self, keyword: str, count: int | None = None) -> tuple[float, ...] | None:
        """As ``Tags.numbers``."""
        item = self._item(keyword)
        return None if item is None else item.numbers(keyword, count)

    def number(self, keyword: str) -> float | None:
        """As ``Tags.number``."""
        item = self._item(keyword)
        return None if item is None else item.number(keyword)

    def text(self, keyword: str) -> str:
        """As ``Tags.text``."""
        item = self._item(keyword)
        return "" if item is None else item.text(keyword)

    def words(self, keyword: str) -> tuple[str, ...]:
        """As ``Tags.words``."""
        item = self._item(keyword)
        return () if item is None else item.words(keyword)

    def item(self, keyword: str) -> Tags | None:
        """As ``Tags.item``."""
        item = self._item(keyword)
        return None if item is None else item.item(keyword)

    def _item(self, keyword: str) -> Tags | None:
        for tags in (self.own, self.shared):
            for sequence in _GROUP_OF[keyword]:
                item = None if tags is None else tags.item(sequence)
                if item is not None and item.has(keyword):
                    return item
        return None


def groups_of(head: Head, index: int = 0) -> Groups | None:
    """Functional groups of one frame of a file; None for a file that has none."""
    own = head.tags.items("PerFrameFunctionalGroupsSequence")
    return Groups(own[index], head.tags.item("SharedFunctionalGroupsSequence")) if index < len(own) else None
