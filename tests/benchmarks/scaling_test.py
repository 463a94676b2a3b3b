import pytest

from benchmarks.scaling import NETWORKS, Collective, collectives, step_seconds

PROGRAM = """
  %a = (f32[3,3,1,8]{3,2,1,0}, f32[10]{0}, /*index=2*/f32[]) all-reduce(%x, %y, %z), channel_id=1
  %b = bf16[8,2]{1,0} all-gather-start(%w), dimensions={0}
  ROOT %c = f32[4]{0} add(%d, %all-reduce.1)
"""


def test_collectives_and_their_bytes_are_read_from_a_program():
    assert collectives(PROGRAM) == [
        Collective('all-reduce', 3, 4 * (72 + 10 + 1)),
        Collective('all-gather', 1, 32),
    ]


def test_a_slower_network_takes_longer_and_overlap_hides_some_of_it():
    operations = [Collective('all-reduce', 60, 44_000_000), Collective('all-reduce', 2, 512)]
    times = [step_seconds(0.02, operations, network, 0.0) for network in NETWORKS]
    # 2 x 44 MB at 10.6 GB/s, and a latency for each.
    assert times[1] == pytest.approx(0.02 + 2 * 511 / 512 * 44e6 / 10.625e9 + 2 * 60e-6)
    assert times[0] < times[2] < times[1]
    assert step_seconds(0.02, operations, NETWORKS[1], 0.5) < times[1]
