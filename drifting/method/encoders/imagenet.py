"""How networks of PyTorch's libraries, which were trained on ImageNet, take images."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of red, green and blue in [0, 1]."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of red, green and blue in [0, 1]."""
