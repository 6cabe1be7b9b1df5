import numpy as np

from pose_demo.skeleton import COCO_KEYPOINTS, KEYPOINTS, LIMBS, MIRROR, NECK, SIGMAS, from_coco


def test_mirroring_twice_changes_nothing_and_swaps_the_sides() -> None:
    assert [MIRROR[MIRROR[k]] for k in range(18)] == list(range(18))
    assert KEYPOINTS[MIRROR[KEYPOINTS.index("left_wrist")]] == "right_wrist"
    assert [k for k in range(18) if MIRROR[k] == k] == [KEYPOINTS.index("nose"), NECK]


def test_from_coco_reorders_and_puts_the_neck_between_the_shoulders() -> None:
    coco = np.stack([np.arange(17), np.arange(17) * 2, np.full(17, 2)], -1).astype(np.float32)
    coco[COCO_KEYPOINTS.index("left_shoulder")] = (10, 20, 2)
    coco[COCO_KEYPOINTS.index("right_shoulder")] = (30, 60, 1)
    ours = from_coco(coco)
    assert ours.shape == (18, 3)
    assert ours[NECK].tolist() == [20, 40, 1]
    for name in COCO_KEYPOINTS:
        assert ours[KEYPOINTS.index(name)].tolist() == coco[COCO_KEYPOINTS.index(name)].tolist()


def test_limbs_join_every_keypoint_once_each() -> None:
    assert len(set(LIMBS)) == 19
    assert {end for limb in LIMBS for end in limb} == set(range(18))


def test_sigmas_are_cocos_and_leave_the_neck_out() -> None:
    assert np.isnan(SIGMAS[NECK])
    assert np.isnan(SIGMAS).sum() == 1
    assert SIGMAS[KEYPOINTS.index("nose")] == 0.026
    assert SIGMAS[KEYPOINTS.index("left_hip")] == SIGMAS[KEYPOINTS.index("right_hip")] == 0.107
