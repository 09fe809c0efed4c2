"""A fifth of `scripts/architectures.txt`, one of every family that is small: exact, all of it.

The whole list takes hours; `results/coverage` holds what it gave.
"""

import pytest
import torch
from reference.scripts import load

from dpexp.selfcheck import TOLERANCE

pytestmark = pytest.mark.slow

NAMES = (
    # Attention, or what stands in for it.
    "coat_lite_tiny", "convit_tiny", "cpubone_nano", "deit_tiny_distilled_patch16_224",
    "edgenext_xx_small", "efficientvim_m1", "efficientvit_b0", "eva02_tiny_patch14_224",
    "gmlp_ti16_224", "iformer_t", "levit_128s", "maxvit_pico_rw_256", "mobilevit_xxs",
    "mobilevitv2_050", "pit_ti_224", "resmlp_12_224", "shvit_s1", "swiftformer_xs",
    "swin_tiny_patch4_window7_224", "tnt_s_patch16_224", "visformer_tiny",
    "vit_relpos_small_patch16_224", "vit_tiny_patch16_224", "vit_tiny_patch16_dinov3_qkvb",
    "vit_tiny_r_s16_p8_224", "xcit_nano_12_p16_224",
    # Convolutions.
    "convnext_atto", "convnext_atto_rms", "convnextv2_atto", "cs3darknet_focus_s", "densenet121",
    "dla46x_c", "dpn48b", "eca_resnext26ts", "efficientnet_b0_gn", "ese_vovnet19b_slim_dw",
    "fasternet_t0", "fastvit_t8", "fbnetc_100", "gernet_s", "ghostnet_050", "hardcorenas_a",
    "hgnetv2_b0", "inception_next_atto", "lcnet_035", "lcnetv2_small", "legacy_seresnet18",
    "mambaout_femto", "mixnet_s", "mnasnet_small", "mobilenetv1_100", "mobilenetv2_035",
    "mobilenetv3_small_050", "mobilenetv4_conv_small_035", "nf_regnet_b0", "regnetx_002",
    "regnety_002", "regnetz_005", "regnetz_b16_evos", "repghostnet_050", "repvgg_a0", "repvit_m1",
    "resnest14d", "resnet10t", "resnet18", "resnetv2_18", "rexnet_100", "skresnet18",
    "starnet_s050", "tinynet_e", "torchvision:shufflenet_v2_x0_5", "torchvision:squeezenet1_1",
)  # fmt: skip


architectures = load("architectures")


def test_a_fifth_of_the_list_is_checked_here():
    names = set(architectures.read_list())
    assert set(NAMES) <= names
    assert 5 * len(NAMES) >= len(names)


@pytest.mark.filterwarnings("ignore")  # torch's and timm's on themselves
@pytest.mark.parametrize("name", NAMES)
def test_norms_and_clipped_sums_are_those_of_a_loop(name):
    with torch.random.fork_rng():
        model, images, reference, _ = architectures.prepare(name)
    found = architectures.compare(model, images, reference, "auto")
    assert found["norm"] <= TOLERANCE, name
    assert found["gradient"] <= TOLERANCE, found["worst"]
