"""Operations of JAX by their derivatives, entry by entry."""


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


CALLS = _names("jit pjit closed_call core_call remat2 checkpoint custom_jvp_call custom_vjp_call")

# linear in all operands, or so in pieces
LINEAR = _names(
    """
    abs add add_any clamp conj convert_element_type copy copy_p imag max min neg
    optimization_barrier real reduce_precision select_n stop_gradient sub
    """
)

# of the operands at the same entry, and not linear
NONLINEAR = _names(
    """
    acos acosh asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt cos cosh digamma erf erf_inv
    erfc exp exp2 expm1 igamma igamma_grad_a igammac lgamma log log1p logistic nextafter polygamma
    pow random_gamma_grad regularized_incomplete_beta rem rsqrt sin sinh sqrt square tan tanh zeta
    """
)

WITHOUT_DERIVATIVE = _names(
    """
    and argmax argmin ceil eq floor ge gt iota is_finite le lt ne not or population_count reduce_and
    reduce_or round shift_left shift_right_arithmetic shift_right_logical sign xor
    """
)
