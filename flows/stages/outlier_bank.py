"""The bank that an exported model tells strange photos by, and what it is worth.

Legend: ``K`` student width, ``M`` bank.
"""

from typing import Any

from flows.config.run import RunConfig
from flows.stages.reduced import Judge
from tintem_core.evaluation.cosine import unit_rows
from tintem_core.evaluation.ood import Bank, auroc, k_centre, nearest_cosine, threshold
from tintem_core.export.formats import OutlierBank


def outlier_bank(config: RunConfig, judge: Judge) -> tuple[OutlierBank, dict[str, Any]]:
    """Choose a bank among the student's embeddings of the training photos.

    Returns:
        The bank, whose threshold takes ``evaluation.false_alarm_rate`` of the test photos for
        strange; and for the record its size, the threshold, and for each OOD set the AUROC of the
        bank beside that of all training photos.
    """
    train, test = judge.train.student, judge.test.student
    chosen = train[k_centre(train, config.export.ood_bank)]
    small, full = nearest_cosine(Bank(chosen)), nearest_cosine(Bank(train))
    inside = small(test)
    least = threshold(inside, config.evaluation.false_alarm_rate)
    compared = {
        name: {
            "auroc": auroc(inside, small(spaces.student)),
            "auroc_of_all": auroc(full(test), full(spaces.student)),
            "photos": len(spaces.student),
        }
        for name, spaces in judge.ood.items()
    }
    told = {
        "bank": len(chosen),
        "of": len(train),
        "threshold": least,
        "false_alarm_rate": config.evaluation.false_alarm_rate,
        "sets": compared,
    }
    return OutlierBank(unit_rows(chosen), least), told
