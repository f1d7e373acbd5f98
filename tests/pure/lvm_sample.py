"""The first 32 KiB of a physical volume of 64 MiB as lvm2 2.03.16 wrote it, but for older copies of its metadata.

Made on two loop devices with `--driverloaded n` and extents of 1 MiB: vgcreate vg0; lvcreate root (8 extents), swap (4);
lvextend root (4); lvcreate join (2); lvextend join (3); lvcreate both (4); lvextend both (2, on the second volume); lvcreate
away (4, on the second volume); lvcreate -i2 wide (4).
"""

import base64
import zlib

_PACKED = (
    "c-rmV-HzHu6bJB4+nc%<?ITQyA|+MM#vZ_US87$hmXN^mu>=;P6*9JAoq+ANje(7FT`AAj=g4&*p<}Zq>1NZaD@Bdc|4%~LW1Bg1<`~S??Crt-"
    "S)*90Hd@EkJ6HQ}f|||Z_I{HySys5wp3bvP&92D(lV>m1@*?VWv_@q*95rQcT@t5$v%T_%zwanL{Kxk<9{x(a?qE6q0000006v-D-hTZfOaAPwpXZDBeEImN"
    "U+&!We{HgTyZ7Dp{de}}EwTpy0000000000000000000000000000000000000000000000000000000006MJ7tLh$O0rG%Gt1PSes@`+!t%)hMYCo|Q_pxw"
    "Yh&7{<!P%!z2nJ=TFgj+b>X<;0)<Oc*I(#ieDOS5aB(Qq!(|}$pJ%$&llrJyEH$c`hfM4hEAjiFTklmfXVP@8&yw@bBx@a7PB;$iOG`9xIj2breLbE>Voy#s"
    "y{k<t)J;9q$A;_KR*<ww-uWi54Shb2-1%}LT3?B_=-"
    "r^U3m8(of+59A7*f23A;pUrQoM>GZI?03NTwCpMjSxqk=T4RcU@1;Nbe7**l4uM#a=R^zYIW}pGL1_6}iAA&l-yh{V*Mm*f-"
    "pz6Yr~8>2(~TvWw7qIqS8uG&HL!l}6PX1p{5B%WSnzr!%WVv*DAj)xR-"
    "9<&#AyVw}6P>xuPUH{8W7=e%~ONv(@Zhw7>^p=?=osI3hPRO6OQ6Srqh^lLToeiev~e*L8WL9~W%>7ng9<Ir9tAr}tvJfD{jvhNO^yFpTR(IT$L*&?o>bO2m"
    "Ro8lxV!yIpmEGe0*dP~pNBq`i@NnV4{w>`^@Lyk9grzp}@OA?@z5%nd4m!&h2rmLR#hdpW6d&=FmCvl^lZRaFd>E3Pv@)dqzcBou=@t6ii)Te3bctq7;qSE="
    "w@6pn$FB<NDFagTHnt)rUMN6~t!nK`URyM)GAj_$FI;v3ZNGVfCU)uC|P*8}Mx)bV_XM>mCXP=e)t&2rX(=u_x^IclX{Y|GeByGLwQ2ulkkTcXbR9L7Tn#<-"
    "hdh)b3T8}>ayY<$^!j*rxU31sF;<xEa*?lpH3D8&iW;X#VE1J0*nkssk+E(KkJyu3F;)8)o*`i;d(Qwkroqw5kYn+wcci74{tzA|EW&ZT&fVw%oO_!bA1s#>"
    "9YdRfHEaDeUPBpb_WsNT(D?DvTe~7tubD`!RrYTGBWRbMj(p^@w9Lv{3%Vd+ycFnHH@&hpt#`opyzM|ge57>P!b53%e6z#zwI}s0O$8IF5pUDS@dF@ciiQjv"
    "!N|NC^@d)CsGd(dHcC>wz>nFeVtmeB*@g<pdkmSR(0z-rwZW}TK-wv(k{ESU~cfsaSl2(fmnZ7Nqo4dLxLUkDF;x!U4N>UV_+YWiIJ7?5jxh5lrC42Fc=(|U"
    "+eeq;-(>#59mo;o>xn|LVsr!nypUctIph(RZ*j<I4G~2A*tyY`u-ncS6E;j3B_N&a+nmSf<AFqj=_}Gu93jY$|OZ6u$S$9P"
)
SAMPLE = zlib.decompress(base64.b85decode(_PACKED))
