"""Names of phases that are common property, and the number of no phase."""

from __future__ import annotations

# A frame without a phase.
NONE = -1
# In the order of the operation, as the numbers of the M2CAI 2016 script count them.
CHOLEC80 = (
    "Preparation", "CalotTriangleDissection", "ClippingCutting", "GallbladderDissection",
    "GallbladderPackaging", "CleaningCoagulation", "GallbladderRetraction",
)  # fmt: skip
