"""Published errors, in meV by molecule and meV/angstrom by component.

3BPA: Luo, Chen, Krishnapriyan, "Enabling Efficient Equivariant Operations in the Fourier Basis via
Gaunt Tensor Products", 2024, arXiv:2401.10216, Table 2: root mean square errors of MACE and of
MACE-Gaunt on the published test sets, which are not the held-out frames used here.

Revised MD17: Batatia, Kovács, Simm, Ortner, Csányi, "MACE: Higher Order Equivariant Message Passing
Neural Networks for Fast and Accurate Force Fields", 2022, arXiv:2206.07697, Table 2, mean absolute
errors; and the independent rerun github.com/kcheng0407/mace-rmd17-benchmark (256 channels, L = 3,
1,000 epochs of 950 frames, split 01), whose README quotes the table.
"""

BPA_FORCE_RMSE = {
    ("clebsch_gordan", "300K"): 8.8,
    ("clebsch_gordan", "600K"): 21.8,
    ("clebsch_gordan", "1200K"): 62.0,
    ("gaunt", "300K"): 9.2,
    ("gaunt", "600K"): 22.2,
    ("gaunt", "1200K"): 63.1,
}

RMD17_FORCE_MAE = {"aspirin": 6.6, "ethanol": 2.1, "naphthalene": 1.3}
RMD17_ENERGY_MAE = {"aspirin": 2.2, "ethanol": 0.4, "naphthalene": 0.5}
RMD17_FORCE_MAE_RERUN = {"aspirin": 8.9, "ethanol": 2.7, "naphthalene": 1.9}
