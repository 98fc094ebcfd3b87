"""Make images of people in photos at the head poses of landmark pictures (Vec2Face+).

    python pose_control.py --batch_size 64 --image_file "path/to/your/image/file" --example 1 --name test_examples \\
        --use_lora --lora_r 8 --model_weights vec2face_plus/pose_model.pth --pose_file landmarks/landmark_examples.txt

The published name of `pose_image_generation.py --control landmarks`, which takes the same flags; --pose_file is a list
of landmark pictures, a path in each line. Stopped, or more to do: run the same command again.
"""

from utils.cli.command import command  # first, as it makes settings that must precede torch

from pose_image_generation import make_posed_dataset, pose_parser
from utils.cli.flags import add_flags_without_effect, note_flags_without_effect

RELEASED_WITHOUT_EFFECT = [
    ("--use_lora", {"action": "store_true"}),  # whether there is LoRA follows from the weights
    ("--lora_dropout", {"type": float, "default": 0.0}),
    ("--start_idx", {}),
]


@command
def main(argv=None):
    parser = pose_parser(__doc__, control="landmarks", output_dir="generated_images_ref")
    add_flags_without_effect(parser.add_argument_group("without effect"), RELEASED_WITHOUT_EFFECT)
    args = parser.parse_args(argv)
    note_flags_without_effect(args, RELEASED_WITHOUT_EFFECT[1:])
    make_posed_dataset(args)


if __name__ == "__main__":
    main()
