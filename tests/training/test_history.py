from tfbn.training.history import History


def test_history_is_saved_and_loaded(tmp_path):
    records = [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": 1e-20}]
    run = History(records, {"device": "cpu:0"})
    run.save(tmp_path / "history.json")
    assert History.load(tmp_path / "history.json") == run
    assert History().history == {}
