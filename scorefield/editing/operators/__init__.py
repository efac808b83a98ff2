r"""What a measurement sees of x: linear operators A, most of them with their singular value decomposition.

    y = A x + σ_y n,   A = U S Vᵀ

x is one batch (b, *d) in model space. *Spectral coordinates* z = Vᵀx are laid out in x's own shape, S is diagonal there, and
zero where nothing is measured; so A⁺ = V S⁺ Uᵀ, and (r² A Aᵀ + σ_y²)⁻¹, are elementwise. An operator that acts on each axis by
itself (averages, blurs, the grey of colours) has the decompositions of small matrices, one an axis; a random projection is a
fast transform of which a part is kept; a dense matrix is decomposed as it is; anything else needs A and Aᵀ alone.
"""

from scorefield.editing.operators.base import NOTHING, Decomposed, LinearOperator, Matrixless
from scorefield.editing.operators.kept import Diagonal, Mask, Projection
from scorefield.editing.operators.matrices import LUMA, Dense, Separable, is_moderate, matrix_of
from scorefield.editing.operators.named import OPERATORS, completed, operator_named

__all__ = (
    "LUMA",
    "NOTHING",
    "OPERATORS",
    "Decomposed",
    "Dense",
    "Diagonal",
    "LinearOperator",
    "Mask",
    "Matrixless",
    "Projection",
    "Separable",
    "completed",
    "is_moderate",
    "matrix_of",
    "operator_named",
)
