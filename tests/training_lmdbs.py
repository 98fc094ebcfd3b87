"""Training LMDBs: made of photos, read whole, and written from changed records."""

import lmdb

from scripts import prepare_training_set


def prepare(demo, photos, folder, *more):
    flags = [*more, "--images", photos, "--encoder", demo.encoder, "-d", folder, "-n", "faces", "--precision", "fp32"]
    prepare_training_set.main([str(flag) for flag in flags])


def content(path):
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as env, env.begin() as transaction:
        return {bytes(key): bytes(value) for key, value in transaction.cursor()}


def write_lmdb(path, records):
    with lmdb.open(str(path), subdir=False, map_size=1 << 24) as env, env.begin(write=True) as transaction:
        for key, value in records.items():
            transaction.put(key, value)
    return path
