"""Does an exported network find what the network itself finds? Rounding is allowed for, and nothing else."""

from dataclasses import dataclass, field

import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass
class Agreement:
    """What was compared, for people to read, and what differs too much; an export with `faults` is refused."""

    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def bound(self, name: str, difference: float, most: float) -> None:
        text = f'{name} differ by at most {difference:.1e}'
        if difference <= most:
            self.notes.append(text)
        else:  # NaN comes here, too
            self.faults.append(f'{text}, allowed are {most:.0e}')


def compare_maps(expected: Arrays, found: Arrays, most: float = 1e-4) -> Agreement:
    """Feature maps and scores: the largest difference, in units of the largest value (but of 1 at least).

    A `label_map` must be the same where the best of `logits` is better than the next one by more than twice that.
    """
    agreement = Agreement()
    for name in expected:
        if found[name].shape != expected[name].shape:
            agreement.faults.append(f'{name} has shape {found[name].shape}, expected was {expected[name].shape}')
        elif name != 'label_map':
            scale = max(1.0, float(np.abs(expected[name]).max()))
            agreement.bound(name, float(np.abs(found[name] - expected[name]).max()) / scale, most)
    if 'label_map' in expected and not agreement.faults:
        logits = expected['logits']
        if logits.shape[1] > 1:
            second, first = np.sort(logits, axis=1)[:, -2:].swapaxes(0, 1)
            clear = first - second > 2 * most * max(1.0, float(np.abs(logits).max()))
        else:
            clear = np.ones(len(logits), dtype=bool)[:, None, None]
        other = (expected['label_map'] != found['label_map']) & clear
        if other.any():
            agreement.faults.append(f'label_map differs in {int(other.sum())} of {other.size} pixels')
        else:
            agreement.notes.append(f'label_map is the same in {other.size} pixels')
    return agreement


# Of the detections so many may lack a partner: at a threshold (score, overlap, number of boxes) rounding decides.
MOST_UNMATCHED = 0.02
MOST_SCORE = 1e-3
MOST_PIXELS = 0.1  # corners of boxes
MOST_MASK = 0.01  # pixels of a mask, as a share of its own


def compare_detections(expected: Arrays, found: Arrays) -> Agreement:
    """`boxes` (N, K, 4), `scores`, `labels` (N, K), perhaps `masks` (N, K, H, W); score 0 is an empty place.

    Each detection needs a partner with the same label, in any order, whose score, corners and mask are the same but for
    rounding (`MOST_SCORE`, `MOST_PIXELS`, `MOST_MASK`).

    Where scores are equal to the bit, as those of saturated sigmoids, chance decides which are kept. Such detections
    are no exception to the rule, or nothing of them would be compared; the fault says how many there are.
    """
    agreement, total, lonely, equal = Agreement(), 0, 0, 0
    score, corner, mask = 0.0, 0.0, 0.0
    for i in range(len(expected['scores'])):
        wanted = np.flatnonzero(expected['scores'][i] > 0)
        free = list(np.flatnonzero(found['scores'][i] > 0))
        total += len(wanted)
        counts = np.unique(expected['scores'][i, wanted], return_counts=True)[1]
        equal += counts[counts > 1].sum()
        for k in wanted:
            partners = [j for j in free if found['labels'][i, j] == expected['labels'][i, k]]
            corners = {j: np.abs(found['boxes'][i, j] - expected['boxes'][i, k]).max() for j in partners}
            scores = {j: abs(found['scores'][i, j] - expected['scores'][i, k]) for j in partners}
            near = [j for j in partners if corners[j] <= MOST_PIXELS and scores[j] <= MOST_SCORE]
            if not near:
                lonely += 1
                continue
            best = min(near, key=corners.get)
            free.remove(best)
            score, corner = max(score, scores[best]), max(corner, corners[best])
            if 'masks' in expected:
                pixels = expected['masks'][i, k]
                other = (found['masks'][i, best] != pixels).sum()
                mask = max(mask, other / max(1, pixels.sum()))
        lonely += len(free)
    agreement.notes.append(f'{total} detections')
    agreement.bound('scores', score, MOST_SCORE)
    agreement.bound('boxes (pixels)', corner, MOST_PIXELS)
    if 'masks' in expected:
        agreement.bound('masks (share of their pixels)', mask, MOST_MASK)
    if lonely > MOST_UNMATCHED * total:
        why = f', of which {equal} share their score with others: which of equals are kept is chance' if equal else ''
        agreement.faults.append(f'{lonely} detections have no partner among {total}{why}')
    elif lonely:
        agreement.notes.append(f'{lonely} without a partner, at a threshold')
    return agreement
