from .model import (MSE, SGD, Conv2d, Model, Module, NearestUpsampling, ReLU, Sequential, Sigmoid, Tanh,
                    TransposeConv2d, Upsampling)

__all__ = ['MSE', 'SGD', 'Conv2d', 'Model', 'Module', 'NearestUpsampling', 'ReLU', 'Sequential', 'Sigmoid', 'Tanh',
           'TransposeConv2d', 'Upsampling']
