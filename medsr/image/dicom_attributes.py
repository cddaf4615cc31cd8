"""What becomes of every attribute of a source in a series derived from it: copied, made new, or dropped, by module.

The one table from which the writer works, the page docs/dicom-write.md is made, and the tests check real series. What
is not in it is dropped: private attributes, curves, and whatever a vendor adds to the standard's modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from medsr.image.volume import Modality

# Whose attributes they are: taken from the first file of the series, from the first of each volume, or from the file
# of the source slice that lies nearest.
Level = Literal["series", "volume", "slice"]


@dataclass(frozen=True)
class Module:
    """Attributes of one module of PS3.3 by keyword.

    copied: as they stand. required: those of the copied that are written empty when the source lacks them (type 2).
    optional: none of it is written when the source has none of it. needed: without one of each of these groups (type 1)
    none of it is written either. new: keyword to what it holds. dropped: reason to
    keywords. modality: the only one that has this module.
    """

    name: str
    level: Level
    copied: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    new: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    modality: Modality | None = None
    optional: bool = False
    needed: tuple[tuple[str, ...], ...] = ()


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PATIENT = Module(
    "Patient",
    "series",
    copied=_words(
        "PatientName PatientID IssuerOfPatientID TypeOfPatientID IssuerOfPatientIDQualifiersSequence "
        "PatientBirthDate PatientBirthTime PatientBirthDateInAlternativeCalendar PatientDeathDateInAlternativeCalendar "
        "PatientAlternativeCalendar PatientSex QualityControlSubject OtherPatientIDs OtherPatientIDsSequence "
        "OtherPatientNames EthnicGroup EthnicGroupCodeSequence PatientSpeciesDescription PatientSpeciesCodeSequence "
        "PatientBreedDescription PatientBreedCodeSequence BreedRegistrationSequence StrainDescription "
        "StrainNomenclature StrainStockSequence StrainAdditionalInformation StrainCodeSequence "
        "GeneticModificationsSequence ResponsiblePerson ResponsiblePersonRole ResponsibleOrganization PatientComments "
        "PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence"
    ),
    required=_words("PatientName PatientID PatientBirthDate PatientSex"),
    dropped={
        "they name other objects, which may not travel with the series": _words(
            "ReferencedPatientSequence ReferencedPatientPhotoSequence SourcePatientGroupIdentificationSequence "
            "GroupOfPatientsIdentificationSequence"
        )
    },
)
TRIAL_SUBJECT = Module(
    "Clinical Trial Subject",
    "series",
    optional=True,
    copied=_words(
        "ClinicalTrialSponsorName ClinicalTrialProtocolID ClinicalTrialProtocolName IssuerOfClinicalTrialProtocolID "
        "OtherClinicalTrialProtocolIDsSequence ClinicalTrialSiteID ClinicalTrialSiteName IssuerOfClinicalTrialSiteID "
        "ClinicalTrialSubjectID IssuerOfClinicalTrialSubjectID ClinicalTrialSubjectReadingID "
        "IssuerOfClinicalTrialSubjectReadingID ClinicalTrialProtocolEthicsCommitteeName "
        "ClinicalTrialProtocolEthicsCommitteeApprovalNumber"
    ),
    required=_words("ClinicalTrialProtocolName ClinicalTrialSiteID ClinicalTrialSiteName"),
    needed=(
        _words("ClinicalTrialSponsorName"),
        _words("ClinicalTrialProtocolID"),
        _words("ClinicalTrialSubjectID ClinicalTrialSubjectReadingID"),
    ),
)
TRIAL_STUDY = Module(
    "Clinical Trial Study",
    "series",
    optional=True,
    copied=_words(
        "ClinicalTrialTimePointID ClinicalTrialTimePointDescription LongitudinalTemporalOffsetFromEvent "
        "LongitudinalTemporalEventType ClinicalTrialTimePointTypeCodeSequence IssuerOfClinicalTrialTimePointID "
        "ConsentForClinicalTrialUseSequence"
    ),
    required=_words("ClinicalTrialTimePointID"),
)
TRIAL_SERIES = Module(
    "Clinical Trial Series",
    "series",
    copied=_words("ClinicalTrialCoordinatingCenterName"),
    dropped={
        "they identify the source series": _words(
            "ClinicalTrialSeriesID ClinicalTrialSeriesDescription IssuerOfClinicalTrialSeriesID"
        )
    },
)
STUDY = Module(
    "General Study",
    "series",
    copied=_words(
        "StudyInstanceUID StudyDate StudyTime AccessionNumber IssuerOfAccessionNumberSequence ReferringPhysicianName "
        "ReferringPhysicianIdentificationSequence ConsultingPhysicianName ConsultingPhysicianIdentificationSequence "
        "StudyID StudyDescription ProcedureCodeSequence PhysiciansOfRecord PhysiciansOfRecordIdentificationSequence "
        "NameOfPhysiciansReadingStudy PhysiciansReadingStudyIdentificationSequence RequestingService "
        "RequestingServiceCodeSequence ReasonForPerformedProcedureCodeSequence"
    ),
    required=_words("StudyDate StudyTime AccessionNumber ReferringPhysicianName StudyID"),
    dropped={"it names other objects, which may not travel with the series": _words("ReferencedStudySequence")},
)
PATIENT_STUDY = Module(
    "Patient Study",
    "series",
    copied=_words(
        "AdmittingDiagnosesDescription AdmittingDiagnosesCodeSequence PatientAge PatientSize PatientSizeCodeSequence "
        "PatientBodyMassIndex MeasuredAPDimension MeasuredLateralDimension PatientWeight MedicalAlerts Allergies "
        "Occupation SmokingStatus AdditionalPatientHistory PregnancyStatus LastMenstrualDate PatientSexNeutered "
        "ReasonForVisit ReasonForVisitCodeSequence AdmissionID IssuerOfAdmissionIDSequence ServiceEpisodeID "
        "ServiceEpisodeDescription IssuerOfServiceEpisodeIDSequence PatientState"
    ),
)
SERIES = Module(
    "General Series",
    "series",
    copied=_words(
        "ProtocolName BodyPartExamined Laterality PatientPosition AnatomicalOrientationType PerformingPhysicianName "
        "PerformingPhysicianIdentificationSequence OperatorsName OperatorIdentificationSequence "
        "RequestAttributesSequence TreatmentSessionUID"
    ),
    required=_words("PatientPosition"),
    new={
        "Modality": "CT or MR",
        "SeriesInstanceUID": "from the source's UIDs, the model, its parameters and the pixel data: see below",
        "SeriesNumber": "the source's x 100 + 1, and 10 more for each further part of it; 9901 where it has none",
        "SeriesDescription": 'the source\'s, or --series-description, ending in "AI SR, not acquired"',
        "SeriesDate": "when the run began",
        "SeriesTime": "when the run began",
    },
    dropped={
        "they describe the step in which the scanner made its series": _words(
            "PerformedProcedureStepID PerformedProcedureStepDescription PerformedProcedureStepStartDate "
            "PerformedProcedureStepStartTime PerformedProcedureStepEndDate PerformedProcedureStepEndTime "
            "PerformedProtocolCodeSequence CommentsOnThePerformedProcedureStep "
            "ReferencedPerformedProcedureStepSequence"
        ),
        "they speak of the source series alone": _words("SeriesDescriptionCodeSequence RelatedSeriesSequence"),
        "they state the range of other values": _words("SmallestPixelValueInSeries LargestPixelValueInSeries"),
    },
)
FRAME_OF_REFERENCE = Module(
    "Frame of Reference, Synchronization",
    "volume",
    copied=_words("FrameOfReferenceUID PositionReferenceIndicator"),
    required=_words("PositionReferenceIndicator"),
    dropped={
        "the clock was the scanner's": _words(
            "SynchronizationFrameOfReferenceUID SynchronizationTrigger SynchronizationChannel TriggerSourceOrType "
            "AcquisitionTimeSynchronized TimeSource TimeDistributionProtocol NTPSourceAddress"
        )
    },
)
EQUIPMENT = Module(
    "General Equipment",
    "series",
    new={
        "Manufacturer": "medsr",
        "ManufacturerModelName": "name and version of the model",
        "SoftwareVersions": "version of medsr",
        "PixelPaddingValue": "the source's, in the new scale, where it is still the darkest value of the volume",
    },
    dropped={
        "they are the scanner's: moved to an item of ContributingEquipmentSequence": _words(
            "InstitutionName InstitutionAddress InstitutionalDepartmentName InstitutionalDepartmentTypeCodeSequence "
            "StationName DeviceSerialNumber DeviceUID SpatialResolution DateOfLastCalibration TimeOfLastCalibration "
            "DateOfManufacture DateOfInstallation ManufacturerDeviceClassUID"
        ),
        "they are the scanner's": _words("GantryID UDISequence"),
    },
)
ACQUISITION = Module(
    "General Acquisition",
    "slice",
    copied=_words(
        "AcquisitionUID AcquisitionNumber AcquisitionDate AcquisitionTime AcquisitionDateTime AcquisitionDuration "
        "IrradiationEventUID"
    ),
    dropped={"it counts the source's images": _words("ImagesInAcquisition")},
)
IMAGE = Module(
    "General Image",
    "slice",
    copied=_words("AnatomicRegionSequence PrimaryAnatomicStructureSequence ImageLaterality RecognizableVisualFeatures"),
    new={
        "ImageType": r"DERIVED\SECONDARY\ and the source's third value (AXIAL or LOCALIZER in CT, else OTHER in MR)",
        "InstanceNumber": "from 1, in slice order",
        "ContentDate": "when the run began",
        "ContentTime": "when the run began",
        "BurnedInAnnotation": "YES with --burn-in or where the source says so, else NO",
        "LossyImageCompression": "01 where any file of the source was ever compressed with loss",
        "LossyImageCompressionRatio": "the source's history; that of its bytes where it states none",
        "LossyImageCompressionMethod": "the source's history",
    },
    dropped={
        "it follows from ImageOrientationPatient": _words("PatientOrientation"),
        "they speak of the source's pixels": _words(
            "ImageComments QualityControlImage IconImageSequence RealWorldValueMappingSequence PresentationLUTShape"
        ),
    },
)
REFERENCE = Module(
    "General Reference, Common Instance Reference",
    "slice",
    new={
        "DerivationDescription": "what was done, in a sentence",
        "DerivationCodeSequence": '(113085, DCM, "Spatial resampling")',
        "SourceImageSequence": "the one or two source slices that lie nearest",
        "ReferencedSeriesSequence": "the same, within their series",
    },
    dropped={
        "they name images whose series is not known": _words(
            "ReferencedImageSequence ReferencedInstanceSequence SourceInstanceSequence "
            "StudiesContainingOtherReferencedInstancesSequence"
        )
    },
)
PLANE = Module(
    "Image Plane",
    "slice",
    new={
        "ImagePositionPatient": "computed",
        "ImageOrientationPatient": "computed: the source's",
        "PixelSpacing": "computed",
        "SliceThickness": "the new distance of slices; the source's thickness where the slices are the source's",
        "SpacingBetweenSlices": "computed",
        "SliceLocation": "distance of the slice from the origin of the patient's coordinates, along its normal",
    },
)
PIXEL = Module(
    "Image Pixel",
    "slice",
    new={
        "Rows": "new",
        "Columns": "new",
        "SamplesPerPixel": "1",
        "PhotometricInterpretation": "MONOCHROME2; the source's in CT",
        "BitsAllocated": "16",
        "BitsStored": "16",
        "HighBit": "15",
        "PixelRepresentation": "1 (signed) in CT; the source's in MR where the values fit",
        "PixelData": "new, uncompressed",
    },
    dropped={
        "they state the range of other values": _words(
            "SmallestImagePixelValue LargestImagePixelValue PixelPaddingRangeLimit"
        ),
        "they belong to colour": _words(
            "PlanarConfiguration RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor "
            "BluePaletteColorLookupTableDescriptor RedPaletteColorLookupTableData GreenPaletteColorLookupTableData "
            "BluePaletteColorLookupTableData ICCProfile ColorSpace"
        ),
        "pixels lie in the file itself, with a spacing": _words(
            "PixelAspectRatio PixelDataProviderURL ExtendedOffsetTable ExtendedOffsetTableLengths"
        ),
    },
)
CONTRAST = Module(
    "Contrast/Bolus",
    "slice",
    optional=True,
    required=_words("ContrastBolusAgent"),
    copied=_words(
        "ContrastBolusAgent ContrastBolusAgentSequence ContrastBolusRoute ContrastBolusAdministrationRouteSequence "
        "ContrastBolusVolume ContrastBolusStartTime ContrastBolusStopTime ContrastBolusTotalDose ContrastFlowRate "
        "ContrastFlowDuration ContrastBolusIngredient ContrastBolusIngredientConcentration"
    ),
)
# In the modules of both CT and MR.
_TREATMENT = {
    "they place the patient for treatment, of which the series is no part": _words(
        "ViewCodeSequence SliceProgressionDirection IsocenterPosition EquipmentFrameOfReferenceUID "
        "PatientTreatmentPreparationSequence PatientToEquipmentRelationshipSequence ReferencedRTPlanSequence "
        "ImagingEquipmentToTreatmentDeliveryDeviceRelationshipSequence"
    )
}
CT = Module(
    "CT Image, Multi-energy CT Image",
    "slice",
    modality="CT",
    copied=_words(
        "ScanOptions KVP DataCollectionDiameter ReconstructionDiameter DistanceSourceToDetector "
        "DistanceSourceToPatient GantryDetectorTilt TableHeight RotationDirection ExposureTime XRayTubeCurrent "
        "Exposure ExposureInuAs FilterType FilterMaterial GeneratorPower FocalSpots ConvolutionKernel RevolutionTime "
        "SingleCollimationWidth TotalCollimationWidth TableSpeed TableFeedPerRotation SpiralPitchFactor "
        "DataCollectionCenterPatient ReconstructionTargetCenterPatient ExposureModulationType CTDIvol "
        "CTDIPhantomTypeCodeSequence EnergyWeightingFactor CTAdditionalXRaySourceSequence MultienergyCTAcquisition "
        "MultienergyCTAcquisitionSequence MultienergyCTProcessingSequence MultienergyCTCharacteristicsSequence "
        "AcquisitionNumber"
    ),
    required=_words("KVP AcquisitionNumber"),
    new={
        "RescaleSlope": "1",
        "RescaleIntercept": "0 (another whole number where values exceed signed 16 bits)",
        "RescaleType": "HU, or the source's HU_MOD",
    },
    dropped={
        "it was computed from the source's pixels": _words(
            "WaterEquivalentDiameter WaterEquivalentDiameterCalculationMethodCodeSequence"
        ),
        "calibrated for other pixels": _words("CalciumScoringMassFactorPatient CalciumScoringMassFactorDevice"),
        "they describe the scanner's movement": _words(
            "ScanStartPositionSequence ScanStopPositionSequence ScanArcType DetectorPositioningType "
            "ImageAndFluoroscopyAreaDoseProduct"
        ),
        **_TREATMENT,
    },
)
MR = Module(
    "MR Image",
    "slice",
    modality="MR",
    copied=_words(
        "ScanningSequence SequenceVariant ScanOptions MRAcquisitionType SequenceName AngioFlag RepetitionTime EchoTime "
        "EchoTrainLength InversionTime TriggerTime NumberOfAverages ImagingFrequency ImagedNucleus EchoNumbers "
        "MagneticFieldStrength NumberOfPhaseEncodingSteps PercentSampling PercentPhaseFieldOfView PixelBandwidth "
        "NominalInterval BeatRejectionFlag LowRRValue HighRRValue IntervalsAcquired IntervalsRejected PVCRejection "
        "SkipBeats HeartRate CardiacNumberOfImages TriggerWindow ReconstructionDiameter ReceiveCoilName "
        "TransmitCoilName AcquisitionMatrix InPlanePhaseEncodingDirection FlipAngle VariableFlipAngleFlag SAR dBdt "
        "B1rms TemporalPositionIdentifier NumberOfTemporalPositions TemporalResolution DiffusionBValue "
        "DiffusionGradientOrientation"
    ),
    required=_words("ScanOptions MRAcquisitionType RepetitionTime EchoTime EchoTrainLength"),
    new={
        "RescaleSlope": "the source's scale, where it is not 1; the finest where it changes from slice to slice",
        "RescaleIntercept": "the source's",
        "RescaleType": "US (unspecified)",
    },
    dropped=_TREATMENT,
)
VOI = Module(
    "VOI LUT",
    "slice",
    copied=_words("WindowCenter WindowWidth WindowCenterWidthExplanation VOILUTFunction"),
    dropped={"lookup tables speak of stored values, which are others": _words("VOILUTSequence")},
)
OBJECT = Module(
    "SOP Common",
    "series",
    copied=_words("TimezoneOffsetFromUTC LongitudinalTemporalInformationModified"),
    new={
        "SpecificCharacterSet": "the source's; ISO_IR 192 where it cannot hold a text",
        "SOPClassUID": "CT or MR Image Storage, also for an enhanced source",
        "SOPInstanceUID": "from SeriesInstanceUID and the slice",
        "InstanceCreationDate": "when the run began",
        "InstanceCreationTime": "when the run began",
        "SyntheticData": "YES",
        "ContentQualification": "RESEARCH",
        "ContributingEquipmentSequence": "the source's, and the scanner (109101) and medsr (109102)",
    },
    dropped={
        "they say how the source object came about": _words(
            "InstanceCreatorUID InstanceCoercionDateTime RelatedGeneralSOPClassUID OriginalSpecializedSOPClassUID "
            "ConversionSourceAttributesSequence OriginalAttributesSequence InstanceOriginStatus BarcodeValue "
            "QueryRetrieveView HL7StructuredDocumentReferenceSequence"
        ),
        "they vouch for the source object": _words(
            "SOPInstanceStatus SOPAuthorizationDateTime SOPAuthorizationComment "
            "AuthorizationEquipmentCertificationNumber EncryptedAttributesSequence MACParametersSequence "
            "DigitalSignaturesSequence"
        ),
        "protocols and codes of the source object": _words(
            "ReferencedDefinedProtocolSequence ReferencedPerformedProtocolSequence CodingSchemeIdentificationSequence "
            "ContextGroupIdentificationSequence MappingResourceIdentificationSequence "
            "PrivateDataElementCharacteristicsSequence"
        ),
    },
)
OTHERS = Module(
    "Overlay Plane, Device, Specimen, Enhanced Patient Orientation",
    "slice",
    dropped={
        "drawn on other pixels": _words(
            "OverlayRows OverlayColumns OverlayDescription OverlayType OverlaySubtype OverlayOrigin "
            "OverlayBitsAllocated OverlayBitPosition ROIArea ROIMean ROIStandardDeviation OverlayLabel OverlayData"
        ),
        "rare, and not needed to read an image": _words(
            "DeviceSequence ContainerIdentifier IssuerOfTheContainerIdentifierSequence "
            "AlternateContainerIdentifierSequence ContainerTypeCodeSequence ContainerDescription "
            "ContainerComponentSequence SpecimenDescriptionSequence PatientOrientationCodeSequence "
            "PatientEquipmentRelationshipCodeSequence"
        ),
    },
)
MODULES = (
    PATIENT, TRIAL_SUBJECT, TRIAL_STUDY, TRIAL_SERIES, STUDY, PATIENT_STUDY, SERIES, FRAME_OF_REFERENCE, EQUIPMENT,
    ACQUISITION, IMAGE, REFERENCE, PLANE, PIXEL, CONTRAST, CT, MR, VOI, OBJECT, OTHERS,
)  # fmt: skip

# Who the patient is and to which study the series belongs: a result that says this otherwise than its source, were it
# only because the source breaks a rule, would be filed elsewhere.
IDENTITY = frozenset(
    _words("PatientName PatientID IssuerOfPatientID PatientBirthDate StudyInstanceUID StudyDate StudyTime StudyID")
    + _words("AccessionNumber FrameOfReferenceUID")
)

# Within items of ContributingEquipmentSequence, from the scanner's General Equipment.
SCANNER = _words(
    "Manufacturer InstitutionName InstitutionAddress StationName InstitutionalDepartmentName "
    "InstitutionalDepartmentTypeCodeSequence ManufacturerModelName DeviceSerialNumber DeviceUID SoftwareVersions "
    "SpatialResolution DateOfLastCalibration TimeOfLastCalibration DateOfManufacture DateOfInstallation "
    "ManufacturerDeviceClassUID"
)

# Values that the standard allows, for attributes where it allows no others. What else stands there is left out.
ALLOWED: Mapping[str, frozenset[str]] = {
    "PatientSex": frozenset("MFO"),
    "Laterality": frozenset("RL"),
    "ImageLaterality": frozenset("RLUB"),
    "ScanningSequence": frozenset(_words("SE IR GR EP RM")),
    "SequenceVariant": frozenset(_words("SK MTC SS TRSS SP MP OSP NONE")),
    "MRAcquisitionType": frozenset(_words("1D 2D 3D")),
    "AngioFlag": frozenset("YN"),
    "BeatRejectionFlag": frozenset("YN"),
    "VariableFlipAngleFlag": frozenset("YN"),
    "InPlanePhaseEncodingDirection": frozenset(_words("ROW COL")),
    "RotationDirection": frozenset(_words("CW CC")),
    "VOILUTFunction": frozenset(_words("LINEAR LINEAR_EXACT SIGMOID")),
    "PatientIdentityRemoved": frozenset(_words("YES NO")),
    "RecognizableVisualFeatures": frozenset(_words("YES NO")),
    "QualityControlSubject": frozenset(_words("YES NO")),
    "MultienergyCTAcquisition": frozenset(_words("YES NO")),
    "SmokingStatus": frozenset(_words("YES NO UNKNOWN")),
    "PatientSexNeutered": frozenset(_words("ALTERED UNALTERED")),
    "LongitudinalTemporalInformationModified": frozenset(_words("UNMODIFIED MODIFIED REMOVED")),
}
# Text of a certain form, for attributes whose VR does not say so.
FORMS: Mapping[str, re.Pattern[str]] = {
    "TimezoneOffsetFromUTC": re.compile(r"[+-](0\d|1[0-4])[0-5]\d"),
    "PatientAlternativeCalendar": re.compile(r"[A-Z]+"),
}


def modules_of(modality: Modality) -> Iterator[Module]:
    """Modules of a CT or MR image."""
    return (module for module in MODULES if module.modality in (None, modality))
