"""Types that may be rebuilt from a model file, by exact name: our list, never the list in the file.

skops refuses a file that names any other type before anything of it is built. A name stands here when
rebuilding it runs no code of the file: estimators' private parts, compiled trees and indexes, and the few
functions that an estimator keeps as a parameter. Compiled trees trust their own indexes, so a forged file can
still crash the
process: that is why every bundle is loaded in the sandboxed child before it is loaded anywhere else.
"""

from __future__ import annotations

SKLEARN_TYPES: tuple[str, ...] = (
    # trees, forests, gradient boosting
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    # neighbours
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.metrics._dist_metrics.ChebyshevDistance64",
    "sklearn.metrics._dist_metrics.MinkowskiDistance64",
    # networks
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    # linear models
    "sklearn._loss.loss.HalfTweedieLossIdentity",
    # Gaussian processes
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels.ConstantKernel",
    "sklearn.gaussian_process.kernels.Product",
    "sklearn.gaussian_process.kernels.RBF",
    # calibration, search, ensembles of named parts
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.metrics._scorer._PassthroughScorer",
    "sklearn.model_selection._split.StratifiedKFold",
    "sklearn.utils._bunch.Bunch",
    # preprocessing and selection; `functools.partial` can only hold functions that are named here too
    "builtins.object",
    "functools.partial",
    "numpy.dtype",
    "scipy.interpolate._bsplines.BSpline",
    "scipy.sparse._csr.csr_matrix",
    "sklearn.compose._column_transformer.make_column_selector",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.feature_selection._univariate_selection.f_regression",
    "sklearn.utils.validation.check_array",
)
"""Beyond what skops itself trusts (public estimators, NumPy scalars, arrays, containers); scikit-learn 1.4 to
1.9.
"""
