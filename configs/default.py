"""Every key of a run, with its unit and its default. An experiment is a short file on top of this one.

Override any of them on the command line: `--config.optimizer.learning_rate=0.1`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the defaults: a ResNet-18 on CIFAR-10 with SGD, as PyTorch users know it."""
    config = ConfigDict()
    config.seed = 0  # of initialisation, order, augmentation and dropout
    config.epochs = 40  # passes over the training split
    config.batch_size = 512  # images per optimizer step, over all devices together
    # float32, bfloat16, float16 (both compute only: parameters and statistics stay float32; float16 with a
    # loss scale), or auto: bfloat16 on a GPU (of NVIDIA's, Ampere or newer), else float32. In float32 a GPU
    # multiplies 10 bits of the mantissa (TF32, as in PyTorch's convolutions), unless
    # JAX_DEFAULT_MATMUL_PRECISION=highest.
    config.precision = 'float32'
    config.parallel = 'auto'  # jit over a mesh of all devices, pmap, or auto (jit)
    # Steps per dispatch to a GPU; 0: as many as take half a second. A CPU always gets one, since XLA runs
    # convolutions inside loops on one thread there.
    config.steps_per_dispatch = 0

    config.dataset = dataset = ConfigDict()
    # A TFDS dataset with `image` and `label`, or digits (from scikit-learn). With `folder`, what that is
    # prepared as; a name that means another dataset already, like this one, is replaced by the folder's own.
    dataset.name = 'cifar10'
    # Images in <split>/<class>/ and folders of loose ones, or in <class>/ alone, see README.md; prepared into
    # data_dir, again when a file changes. '': none.
    dataset.folder = ''
    dataset.bad_images = 'fail'  # what an unreadable image in the folder does: fail, skip (it is left out)
    # Side in pixels: images of any size are resized to it along their short side, and the square in the
    # middle is cut out. 0: all images have one size, and keep it.
    dataset.image_size = 0
    dataset.data_dir = ''  # where TFDS keeps its datasets; '' is TFDS's own choice (or TFDS_DATA_DIR)
    dataset.manual_dir = ''  # where an archive that was downloaded by hand lies
    dataset.cache_dir = (
        ''  # decoded pixels; '' is $XDG_CACHE_HOME/jax-classifiers or ~/.cache/jax-classifiers
    )
    # resident: whole splits, decoded, on the devices; streaming: batches read and decoded ahead of their use,
    # for what does not fit; auto: resident up to 40 % of the devices' free memory, or of the machine's where
    # that is less. Batches are the same.
    dataset.loader = 'auto'
    # Processes that decode streamed training batches; 0: threads of the main process; -1: a process for each
    # core (at most 16, and what /dev/shm has room for; several processes that train on one machine share
    # both), or threads where there are no more than two cores.
    dataset.workers = -1
    dataset.train_split = 'train'  # what is trained on
    dataset.validation_split = (
        ''  # what to choose the best checkpoint on, with validation 0; '': a part of train, see validation
    )
    dataset.test_split = 'test'  # evaluated once, at the end; '': none, and results are those on validation
    # Part of train held out to choose the best checkpoint on: a fraction, or a count if above 1.
    # 0: nothing is held out, and without a validation_split `best` is the last epoch unless watch_test is on.
    dataset.validation = 0.1
    dataset.validation_seed = 42  # of the stratified split, so that runs of all seeds share it
    dataset.watch_test = False  # with validation 0: evaluate test after every epoch, and choose on it
    dataset.drop_last = False  # drop the last training batch of an epoch where it is smaller
    # Subtracted and divided by: constants of the dataset (computed where none are known), .5, or nothing.
    dataset.normalization = 'dataset'  # dataset, half, none

    config.augmentation = augmentation = ConfigDict()
    augmentation.crop_padding = 0  # pixels added on each side before a random crop of the original size
    augmentation.crop_mode = 'zero'  # what is added: zero (black), reflect
    # Instead of that crop: one of at least this share of the area, resized to the whole; 1: off. It is one of
    # the square that dataset.image_size leaves; torchvision's RandomResizedCrop has the whole photograph.
    augmentation.crop_scale_min = 1.0
    augmentation.flip = False  # mirror left to right with probability 1/2
    # Colour jitter in a random order: factors are uniform in 1 +- this, that of hue in +- this of a turn.
    augmentation.brightness = 0.0  # of all values
    augmentation.contrast = 0.0  # of the differences from the image's mean
    augmentation.saturation = 0.0  # of the differences from grey
    augmentation.hue = 0.0  # at most 1/2
    augmentation.rotation = 0.0  # degrees; the angle is uniform between plus and minus this
    augmentation.rotation_interpolation = 'nearest'  # nearest, bilinear
    augmentation.rotation_fill = 0.0  # value of the corners that a rotation leaves, from 0 to 1 (white)
    # How far the corners may move towards the centre, as a share of the way; 0: off.
    augmentation.perspective = 0.0
    augmentation.perspective_probability = 0.5  # that an image gets it
    augmentation.blur = 0  # side in pixels of a Gaussian kernel, odd; 0: off
    augmentation.blur_sigma_min = 0.1  # its standard deviation in pixels is uniform between these
    augmentation.blur_sigma_max = 2.0  # pixels
    augmentation.auto = 'none'  # none, randaugment, trivialaugment
    augmentation.randaugment_ops = 2  # operations an image
    augmentation.randaugment_magnitude = 9  # of 0 to 30
    augmentation.cutout = 0  # side in pixels of a square set to 0; 0: off
    augmentation.cutout_after_normalization = True  # so that 0 is the mean, not black
    augmentation.erasing = 0.0  # probability of setting a random rectangle to 0, after normalisation
    # Beta(alpha, alpha) gives the share that an image keeps of itself; 0: off. With both on, each batch gets
    # one of them. Training accuracy then counts the label with the larger share.
    augmentation.mixup_alpha = 0.0
    augmentation.cutmix_alpha = 0.0  # the share of the area

    config.model = model = ConfigDict()
    model.name = 'resnet18'  # see jax_models/registry.py; or module:Class, a Flax module of your own
    model.width = 64  # channels of the first stage; each further stage doubles them
    # cifar: 3x3 convolution; imagenet: 7x7, stride 2, then a 3x3 max pool of stride 2; cifar_pool: 3x3, pool
    model.stem = 'cifar'
    model.max_parameters = 0  # a larger model is refused before images are read; 0: any size
    model.activation = 'relu'  # relu, gelu, silu
    model.stage_sizes = ()  # blocks per stage, such as (4, 4, 3); (): those of the name
    model.kernel_sizes = ()  # of the 3x3 convolutions' kernels, odd, one per stage; (): 3
    model.shortcut_kernel_sizes = ()  # of the projection shortcuts' kernels, one per stage; (): 1
    model.se = 'none'  # squeeze and excitation: none, stem (after its activation), blocks (in each)
    model.se_reduction = 16  # the share of the channels that it squeezes them to, inverted
    model.hidden = 256  # units of simple_cnn's hidden layer
    model.head_sizes = ()  # units of a ResNet's hidden layers before the last linear one, such as (512, 256)
    model.head = 'linear'  # linear, cosine: the last layer; cosine for the losses with a margin
    model.cosine_scale = 64.0  # logits of a cosine head are this times the cosines
    # Probability, after each hidden layer of the head, or before its only one. With pmap each device draws
    # its own, so that results depend on their number.
    model.dropout = 0.0
    model.block_dropout = 0.0  # probability, after each residual block
    # Of kernels: pytorch (its layers' default), torchvision (kaiming normal, fan out, for convolutions),
    # xavier_uniform, xavier_normal (gain sqrt 2), kaiming_normal (fan in), orthogonal (gain sqrt 2),
    # normal (deviation .02).
    model.initialization = 'pytorch'
    model.zero_init_last_norm = False  # scale 0 in the last norm of each block: it starts as its shortcut
    # How convolutions run: xla; on CPUs winograd (float32, jax_models/cpu_convolution.py), onednn (float32 or
    # bfloat16, jax_models/onednn.py); auto: on one CPU device onednn where XLA has it (in float32 on Intel's
    # with AMX only), else winograd in float32, and xla otherwise. The function computed is the same.
    model.convolution = 'auto'

    config.batch_norm = batch_norm = ConfigDict()
    # Statistics over the global batch, so that the number of devices does not matter; or, when off, over each
    # device's part of it (running ones are averaged): no communication in the layers, another training.
    batch_norm.sync = True

    config.loss = loss = ConfigDict()
    loss.name = 'cross_entropy'  # cross_entropy, focal, arcface, cosface
    loss.label_smoothing = 0.0  # share of the target spread over all classes
    loss.focal_gamma = 2.0  # how much less the focal loss counts what is already right; 0: cross entropy
    # What separates a class from the others: added to the angle in arcface (radians), taken off the cosine in
    # cosface (whose paper has 0.35). Evaluation is without it.
    loss.margin = 0.5

    config.loss_scale = loss_scale = ConfigDict()  # of precision float16, as PyTorch's GradScaler
    loss_scale.initial = 2.0**16  # factor of the loss in the first step
    loss_scale.growth_factor = 2.0  # of that factor
    loss_scale.growth_interval = 2000  # steps without an overflow before it grows
    loss_scale.backoff_factor = 0.5  # after an overflow; below a scale of 1 the run stops
    loss_scale.max = 2.0**24  # beyond which it does not grow

    config.optimizer = optimizer = ConfigDict()
    optimizer.name = 'sgd'  # sgd, adam, adamw, rmsprop, muon (Adam for all but convolution kernels)
    optimizer.learning_rate = 0.1  # the schedule's highest; usual: sgd and muon .1, adam and adamw 1e-3
    # Multiplies the rate (not schedule.final_learning_rate) by batch_size / reference_batch, or by its root.
    optimizer.scale_with_batch = 'none'  # none, linear (for sgd), sqrt (for the others)
    optimizer.reference_batch = 256  # images per step that learning_rate is meant for
    optimizer.momentum = 0.9  # of sgd, rmsprop (whose default in PyTorch is 0) and muon
    optimizer.nesterov = False  # of sgd and muon
    optimizer.beta1 = 0.9  # of Adam's mean of gradients, in adam, adamw and muon
    optimizer.beta2 = 0.999  # of Adam's mean of squared gradients
    optimizer.rmsprop_decay = 0.99  # of rmsprop's mean of squared gradients (PyTorch's alpha)
    optimizer.epsilon = 1e-8  # added to the root of the mean of squares: adam, adamw, rmsprop, muon
    # As in PyTorch: L2, added to the gradient before momentum; in adamw and muon apart from the gradient
    # and scaled by the rate.
    optimizer.weight_decay = 5e-4
    optimizer.decay_norm_and_bias = True  # whether it also applies to parameters of one dimension
    optimizer.clip_value = 0.0  # each gradient entry clipped to +-this; 0: off
    optimizer.clip_norm = 0.0  # global norm of the gradient clipped to this; 0: off
    # Lookahead around any optimizer: so many updates of the fast weights, then the slow ones go this share
    # of the way to them, and the fast ones return to the slow. Evaluation and checkpoints use the fast ones,
    # which equal the slow ones every lookahead_steps updates. 0 steps: off.
    optimizer.lookahead_steps = 0
    optimizer.lookahead_alpha = 0.5  # that share
    # Splits each batch into this many, one after the other, and averages their gradients: less memory,
    # same batch_size. Batch norm sees the parts.
    optimizer.accumulation_steps = 1

    config.schedule = schedule = ConfigDict()
    # PyTorch's: constant, step, multistep, exponential, cosine, cosine_restarts, onecycle, plateau. Their
    # epochs are counted from the end of the warm-up.
    schedule.name = 'cosine'
    schedule.interval = 'step'  # whether the rate changes every step or every epoch (plateau: every epoch)
    # Linear from near 0 to the schedule's first rate, before it begins; at most half of the run.
    schedule.warmup_epochs = 0.0
    schedule.final_learning_rate = 0.0  # the lowest rate of cosine, cosine_restarts and plateau
    schedule.step_size = 30  # epochs from one fall to the next: step
    # Epochs after which the rate falls: multistep. On the command line --config.schedule.milestones=30,60
    schedule.milestones = ()
    schedule.gamma = 0.1  # factor of a fall, or of each epoch: step, multistep, exponential
    schedule.t_max = 0  # epochs from the highest to the lowest rate: cosine; 0: all after warm-up
    schedule.t_0 = 10  # epochs until the first restart: cosine_restarts
    schedule.t_mult = 1  # how many times as long each following period is
    # Factor of the highest rate at each restart, below final_learning_rate too in the end; 1: off.
    schedule.restart_decay = 1.0
    schedule.total_steps = 0  # of onecycle, in intervals; 0: all after warm-up. It stays at its end.
    schedule.pct_start = 0.3  # part of the cycle in which the rate rises
    schedule.anneal_strategy = 'cos'  # cos, linear
    schedule.div_factor = 25.0  # highest rate / first rate
    schedule.final_div_factor = 1e4  # first rate / last rate
    schedule.cycle_momentum = True  # momentum (beta1 of adam and adamw) falls while the rate rises
    schedule.base_momentum = 0.85  # lowest, at the highest rate
    schedule.max_momentum = 0.95  # highest, at the lowest rate
    # val_loss, val_accuracy, train_loss, …; auto: the loss on val, on a watched test, or on train.
    schedule.plateau_metric = 'auto'
    schedule.plateau_mode = 'min'  # min, max: which metric is better
    schedule.plateau_factor = 0.1  # of the rate at each reduction
    schedule.plateau_patience = 10  # epochs without a better metric that are borne
    schedule.plateau_threshold = 1e-4  # a metric is better if it is so by more than this
    schedule.plateau_threshold_mode = 'rel'  # rel: times the best; abs
    schedule.plateau_cooldown = 0  # epochs after a reduction that do not count as bad
    schedule.plateau_eps = 1e-8  # smaller reductions are not made

    config.ema = ema = ConfigDict()
    # Per step, of an exponential moving average of weights and statistics, which is what evaluation and
    # `best` take; young ones follow faster: min(decay, step / (step + 9)). 0: off.
    ema.decay = 0.0

    config.early_stopping = early_stopping = ConfigDict()
    early_stopping.patience = 0  # epochs without a better metric before the run ends; 0: off
    early_stopping.metric = (
        'auto'  # val_accuracy, val_loss, train_loss, …; auto: what chooses the best checkpoint
    )

    config.checkpoint = checkpoint = ConfigDict()
    # At the end of so many epochs, but where the last one is younger than so many seconds: saving takes a
    # GPU longer than an epoch of a small model. 0 epochs: only at the end and when interrupted.
    checkpoint.every_epochs = 1
    checkpoint.min_seconds = 10.0  # those seconds
    checkpoint.every_steps = 0  # additionally; 0: off

    # Pairs of images of people, compared by the cosine similarity of their features after every epoch.
    config.verification = verification = ConfigDict()
    # File of lines `image image 0|1`, or .csv with a header line; looked up in dataset.folder too. '': none.
    verification.pairs = ''
    verification.split = 'ver_data'  # holds the images, whose names in the file may begin with it
    verification.flip = False  # average the features of an image and of its mirror image
    verification.resamples = 1000  # of the bootstrap whose intervals results.json gives; 0: no intervals

    config.wandb = wandb = ConfigDict()
    wandb.mode = 'disabled'  # disabled, offline, online
    wandb.project = 'jax-classifiers'  # that the run appears in
    wandb.entity = ''  # '' is your default one
    wandb.name = ''  # '' is the workdir's name
    wandb.upload_checkpoint = False  # store the best checkpoint as an artifact at the end

    return config
